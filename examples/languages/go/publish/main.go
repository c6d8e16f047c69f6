// Publishes through pgx.
//
//	DATABASE_URL=postgres://… go run ./publish
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

const (
	customerID = 42
	note       = `Grüße, "you" \ 😀`
)

// order makes an order; its id comes as text.
func order(ctx context.Context, tx pgx.Tx) (id string, err error) {
	err = tx.QueryRow(ctx,
		"insert into orders (customer_id, note) values ($1, $2) returning id::text",
		customerID, note,
	).Scan(&id)
	return id, err
}

// publish tells that an order is paid; it returns the event's id.
func publish(ctx context.Context, tx pgx.Tx, orderID string) (id string, err error) {
	// A map or a struct is encoded; a string or []byte has to be JSON already.
	data := map[string]any{
		"order_id": orderID,
		"amount":   1250,
		"note":     note,
		"items":    []map[string]any{{"sku": "A-1", "count": 2}},
	}
	labels := []string{"vip", `two words, "quoted"`}
	err = tx.QueryRow(ctx, `
		select webhook_publish_tx(
		  $1, $2::bigint::text, $3, labels => $4, message_id => $5
		)`,
		"order.paid", customerID, data, labels, orderID,
	).Scan(&id)
	return id, err
}

func run(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)

	var orderID, eventID string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if orderID, err = order(ctx, tx); err != nil {
			return err
		}
		eventID, err = publish(ctx, tx, orderID)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("published", eventID)

	// The same message again: nothing is written, and the id is the same.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		eventID, err = publish(ctx, tx, orderID)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("again", eventID)

	// Rolled back, there is no order and no event.
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if orderID, err = order(ctx, tx); err != nil {
		return err
	}
	if eventID, err = publish(ctx, tx, orderID); err != nil {
		return err
	}
	fmt.Println("rolled back", eventID)
	return tx.Rollback(ctx)
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
