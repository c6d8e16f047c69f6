<?php
// A receiver: verifies, stores, answers; work.php does the work later.
//
//   WEBHOOK_SECRET=whsec_… PGHOST=… PGPORT=… PGUSER=… PGDATABASE=… php -S 127.0.0.1:3000 receive.php
//
// Its database has the tables of inbox.sql.
declare(strict_types=1);

require __DIR__ . '/connect.php';

const MAX_BYTES = 1024 * 1024;
const TOLERANCE = 5 * 60;

/**
 * Whether a request is genuine and at most five minutes old. This is all that a library of
 * Standard Webhooks does.
 */
function genuine(string $body): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    $signatures = $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '';
    if (!ctype_digit($timestamp) || abs(time() - (int) $timestamp) > TOLERANCE) {
        return false;
    }
    // The key is what the secret's base64 says, and the body the bytes as they came.
    $key = base64_decode(substr(getenv('WEBHOOK_SECRET'), strlen('whsec_')));
    $expected = base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    // Several, while a secret is rotated. Compared in a time that tells nothing.
    foreach (explode(' ', $signatures) as $signature) {
        if (hash_equals("v1,$expected", $signature)) {
            return true;
        }
    }
    return false;
}

/** Keeps an event; one that was here before changes nothing. */
function store(string $body): void
{
    $id = json_decode($body, flags: JSON_THROW_ON_ERROR)->id;
    $insert = connect()->prepare(
        'insert into inbox (event_id, body) values (?, ?) on conflict (event_id) do nothing'
    );
    $insert->execute([$id, $body]);
}

$body = file_get_contents('php://input', length: MAX_BYTES + 1);
if (strlen($body) > MAX_BYTES) {
    http_response_code(413);
} elseif (!genuine($body)) {
    http_response_code(401);
} else {
    // An exception here is a 500: webhookpub tries again later.
    store($body);
    http_response_code(204);
}
