// A receiver: verifies, stores, answers; a goroutine does the work later.
//
//	WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… go run ./receive
//
// Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const maxBytes = 1 << 20

type envelope struct {
	Event string          `json:"event"`
	ID    string          `json:"id"`
	Data  json.RawMessage `json:"data"`
}

type receiver struct {
	webhook *standardwebhooks.Webhook
	pool    *pgxpool.Pool
	arrived chan struct{}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	// The bytes as they came: parsed and written again, they would be others.
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxBytes))
	if err != nil {
		http.Error(w, "too long", http.StatusRequestEntityTooLarge)
		return
	}
	// It also refuses timestamps that are more than five minutes off.
	if err := r.webhook.Verify(body, request.Header); err != nil {
		http.Error(w, "not genuine", http.StatusUnauthorized)
		return
	}
	if err := r.store(request.Context(), body); err != nil {
		// Anything but a 2xx means: try again later.
		log.Print(err)
		http.Error(w, "not stored", http.StatusInternalServerError)
		return
	}
	select {
	case r.arrived <- struct{}{}:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}

// store keeps an event; one that was here before changes nothing.
func (r *receiver) store(ctx context.Context, body []byte) error {
	var event envelope
	if err := json.Unmarshal(body, &event); err != nil {
		return err
	}
	_, err := r.pool.Exec(ctx, `
		insert into inbox (event_id, body)
		values ($1, $2)
		on conflict (event_id) do nothing`,
		event.ID, body,
	)
	return err
}

// handle is the work. What it writes commits together with the mark that it is done.
func handle(ctx context.Context, tx pgx.Tx, event envelope) error {
	if event.Event != "order.paid" {
		return nil
	}
	var order struct {
		ID string `json:"order_id"`
	}
	if err := json.Unmarshal(event.Data, &order); err != nil {
		return err
	}
	_, err := tx.Exec(ctx,
		"insert into receipts (order_id, data) values ($1, $2)", order.ID, event.Data)
	return err
}

// handleNext handles the event that has waited longest; pgx.ErrNoRows when none waits.
func (r *receiver) handleNext(ctx context.Context) error {
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		var event envelope
		err := tx.QueryRow(ctx, `
			select body
			from inbox
			where handled_at is null
			order by received_at
			limit 1
			for update skip locked`,
		).Scan(&event)
		if err != nil {
			return err
		}
		if err := handle(ctx, tx, event); err != nil {
			return err
		}
		_, err = tx.Exec(ctx,
			"update inbox set handled_at = clock_timestamp() where event_id = $1", event.ID)
		return err
	})
}

// work handles what is stored, for ever.
func (r *receiver) work(ctx context.Context) {
	for {
		err := r.handleNext(ctx)
		if err == nil {
			continue
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			// The event waits, and those after it.
			log.Print(err)
		}
		// One that another process stored does not ring here.
		select {
		case <-r.arrived:
		case <-time.After(5 * time.Second):
		}
	}
}

func main() {
	ctx := context.Background()
	webhook, err := standardwebhooks.NewWebhook(os.Getenv("WEBHOOK_SECRET"))
	if err != nil {
		log.Fatal(err)
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	r := &receiver{webhook: webhook, pool: pool, arrived: make(chan struct{}, 1)}
	go r.work(ctx)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "3000"), r))
}
