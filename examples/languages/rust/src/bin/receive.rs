//! A receiver: verifies, stores, answers; a task does the work later.
//!
//!     WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… cargo run --bin receive
//!
//! Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, PgPool};
use standardwebhooks::Webhook;
use tokio::sync::Notify;

const MAX_BYTES: usize = 1024 * 1024;

#[derive(Deserialize, Serialize)]
struct Envelope {
    event: String,
    id: String,
    created_at: String,
    data: Value,
}

struct Receiver {
    webhook: Webhook,
    pool: PgPool,
    arrived: Notify,
}

/// Takes one request. The body is the bytes as they came: parsed and written again, they
/// would be others.
async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    // It also refuses timestamps that are more than five minutes off.
    if receiver.webhook.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    match store(&receiver.pool, event).await {
        Ok(()) => {
            receiver.arrived.notify_one();
            StatusCode::NO_CONTENT
        }
        // Anything but a 2xx means: try again later.
        Err(error) => {
            eprintln!("{error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// Keeps an event; one that was here before changes nothing.
async fn store(pool: &PgPool, event: Envelope) -> sqlx::Result<()> {
    sqlx::query(
        "insert into inbox (event_id, body)
         values ($1, $2)
         on conflict (event_id) do nothing",
    )
    .bind(&event.id)
    .bind(Json(&event))
    .execute(pool)
    .await?;
    Ok(())
}

/// The work. What it writes commits together with the mark that it is done.
async fn handle(tx: &mut PgConnection, event: &Envelope) -> sqlx::Result<()> {
    if event.event == "order.paid" {
        let order_id = event.data["order_id"]
            .as_str()
            .and_then(|id| Uuid::parse_str(id).ok());
        sqlx::query("insert into receipts (order_id, data) values ($1, $2)")
            .bind(order_id)
            .bind(Json(&event.data))
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// Handles the event that has waited longest; false when none waits.
async fn handle_next(pool: &PgPool) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    let next: Option<Json<Envelope>> = sqlx::query_scalar(
        "select body
         from inbox
         where handled_at is null
         order by received_at
         limit 1
         for update skip locked",
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(Json(event)) = next else {
        return Ok(false);
    };
    handle(&mut tx, &event).await?;
    sqlx::query("update inbox set handled_at = clock_timestamp() where event_id = $1")
        .bind(&event.id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// Handles what is stored, for ever.
async fn work(receiver: Arc<Receiver>) {
    loop {
        match handle_next(&receiver.pool).await {
            Ok(true) => continue,
            Ok(false) => {}
            // The event waits, and those after it.
            Err(error) => eprintln!("{error}"),
        }
        // One that another process stored does not ring here.
        let _ = tokio::time::timeout(Duration::from_secs(5), receiver.arrived.notified()).await;
    }
}

#[tokio::main]
async fn main() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let receiver = Arc::new(Receiver {
        webhook: Webhook::new(&variable("WEBHOOK_SECRET")).expect("a secret"),
        pool: PgPool::connect_lazy(&variable("DATABASE_URL")).expect("a connection string"),
        arrived: Notify::new(),
    });
    tokio::spawn(work(receiver.clone()));
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .expect("a free port");
    let app = axum::Router::new()
        .route("/", post(receive))
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .with_state(receiver);
    axum::serve(listener, app).await.expect("to serve");
}
