-- Lists every network that is not public unicast: closed, unless settings.allowed_networks
-- opens it. This is the only such list; workers read it from here.
--
-- Called by  webhookpub.address_is_open; workers, when they start.
-- Returns    IPv4: the special blocks (RFC 6890) and Azure's 168.63.129.16. IPv6: all but
--            2000::/3, and in it what embeds IPv4 (6to4, Teredo) or is not for use.

create or replace function webhookpub.closed_networks ()
  returns cidr[]
  language sql
  immutable
  parallel safe
return array[
  '0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '168.63.129.16/32',
  '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.31.196.0/24',
  '192.52.193.0/24', '192.88.99.0/24', '192.168.0.0/16', '192.175.48.0/24',
  '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4',
  '::/3', '4000::/2', '8000::/1',
  '2001::/23', '2001:db8::/32', '2002::/16', '2620:4f:8000::/48', '3ffe::/16', '3fff::/20'
]::cidr[];

comment on function webhookpub.closed_networks () is
  'The networks that no webhook may point at unless settings.allowed_networks opens them.';
