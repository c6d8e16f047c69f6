//! Publishes through sqlx.
//!
//!     DATABASE_URL=postgres://… cargo run --bin publish

use serde_json::json;
use sqlx::types::{Json, Uuid};
use sqlx::{Connection, PgConnection};

const CUSTOMER_ID: i64 = 42;
const NOTE: &str = r#"Grüße, "you" \ 😀"#;

/// Makes an order.
async fn order(tx: &mut PgConnection) -> sqlx::Result<Uuid> {
    sqlx::query_scalar("insert into orders (customer_id, note) values ($1, $2) returning id")
        .bind(CUSTOMER_ID)
        .bind(NOTE)
        .fetch_one(tx)
        .await
}

/// Tells that an order is paid; returns the event's id.
async fn publish(tx: &mut PgConnection, order_id: Uuid) -> sqlx::Result<String> {
    let data = json!({
        "order_id": order_id.to_string(),
        "amount": 1250,
        "note": NOTE,
        "items": [{ "sku": "A-1", "count": 2 }],
    });
    let labels = ["vip", r#"two words, "quoted""#];
    sqlx::query_scalar("select webhook_publish_tx($1, $2, $3, labels => $4, message_id => $5)")
        .bind("order.paid")
        .bind(CUSTOMER_ID.to_string())
        .bind(Json(data))
        .bind(labels.as_slice())
        .bind(order_id.to_string())
        .fetch_one(tx)
        .await
}

#[tokio::main]
async fn main() -> sqlx::Result<()> {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    let mut connection = PgConnection::connect(&url).await?;

    let mut tx = connection.begin().await?;
    let order_id = order(&mut tx).await?;
    let event_id = publish(&mut tx, order_id).await?;
    tx.commit().await?;
    println!("published {event_id}");

    // The same message again: nothing is written, and the id is the same.
    println!("again {}", publish(&mut connection, order_id).await?);

    // Rolled back, there is no order and no event.
    let mut tx = connection.begin().await?;
    let order_id = order(&mut tx).await?;
    println!("rolled back {}", publish(&mut tx, order_id).await?);
    tx.rollback().await
}
