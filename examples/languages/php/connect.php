<?php
declare(strict_types=1);

/** A connection to the database that the environment names; errors are exceptions. */
function connect(): PDO
{
    $parts = [
        'host' => getenv('PGHOST'),
        'port' => getenv('PGPORT'),
        'dbname' => getenv('PGDATABASE'),
    ];
    $dsn = 'pgsql:' . http_build_query($parts, '', ';');
    return new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD') ?: null);
}
