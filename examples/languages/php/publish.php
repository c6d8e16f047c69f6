<?php
// Publishes through PDO.
//
//   PGHOST=… PGPORT=… PGUSER=… PGDATABASE=… php publish.php
declare(strict_types=1);

require __DIR__ . '/connect.php';

const CUSTOMER_ID = 42;
const NOTE = 'Grüße, "you" \\ 😀';

/** Makes an order; its id comes as text. */
function order(PDO $pdo): string
{
    $insert = $pdo->prepare('insert into orders (customer_id, note) values (?, ?) returning id');
    $insert->execute([CUSTOMER_ID, NOTE]);
    return $insert->fetchColumn();
}

/** Tells that an order is paid; returns the event's id. */
function publish(PDO $pdo, string $orderId): string
{
    $data = [
        'order_id' => $orderId,
        'amount' => 1250,
        'note' => NOTE,
        'items' => [['sku' => 'A-1', 'count' => 2]],
    ];
    $labels = ['vip', 'two words, "quoted"'];
    // PDO knows no arrays: the list goes as JSON, too. (object): an empty [] would be a list.
    $select = $pdo->prepare(<<<'SQL'
        select webhook_publish_tx(
          :type, :user, :data,
          labels => array(select jsonb_array_elements_text(:labels)),
          message_id => :message
        )
        SQL);
    $select->execute([
        'type' => 'order.paid',
        'user' => CUSTOMER_ID,
        'data' => json_encode((object) $data, JSON_THROW_ON_ERROR),
        'labels' => json_encode($labels, JSON_THROW_ON_ERROR),
        'message' => $orderId,
    ]);
    return $select->fetchColumn();
}

$pdo = connect();

$pdo->beginTransaction();
$orderId = order($pdo);
$eventId = publish($pdo, $orderId);
$pdo->commit();
echo "published $eventId\n";

// The same message again: nothing is written, and the id is the same.
echo 'again ', publish($pdo, $orderId), "\n";

// Rolled back, there is no order and no event.
$pdo->beginTransaction();
echo 'rolled back ', publish($pdo, order($pdo)), "\n";
$pdo->rollBack();
