<?php
// Does the work for receive.php: handles what is stored, for ever.
//
//   PGHOST=… PGPORT=… PGUSER=… PGDATABASE=… php work.php
declare(strict_types=1);

require __DIR__ . '/connect.php';

/** The work. What it writes commits together with the mark that it is done. */
function handle(PDO $pdo, stdClass $event): void
{
    if ($event->event === 'order.paid') {
        $insert = $pdo->prepare('insert into receipts (order_id, data) values (?, ?)');
        $insert->execute([
            $event->data->order_id,
            json_encode($event->data, JSON_THROW_ON_ERROR),
        ]);
    }
}

/** Handles the event that has waited longest; false when none waits. */
function handleNext(PDO $pdo): bool
{
    $pdo->beginTransaction();
    $row = $pdo->query(<<<'SQL'
        select event_id, body
        from inbox
        where handled_at is null
        order by received_at
        limit 1
        for update skip locked
        SQL)->fetch();
    if ($row !== false) {
        handle($pdo, json_decode($row['body'], flags: JSON_THROW_ON_ERROR));
        $update = $pdo->prepare(
            'update inbox set handled_at = clock_timestamp() where event_id = ?'
        );
        $update->execute([$row['event_id']]);
    }
    $pdo->commit();
    return $row !== false;
}

// An exception ends it: the event waits, and whoever supervises it starts it again.
$pdo = connect();
while (true) {
    if (!handleNext($pdo)) {
        sleep(1);
    }
}
