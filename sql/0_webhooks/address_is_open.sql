-- Says whether a webhook may point at an address.
--
-- Called by  webhookpub.check_url. What is connected to is checked again by the worker.

create or replace function webhookpub.address_is_open (
  p_address inet,
  p_allowed_networks cidr[]
)
  returns boolean
  language sql
  immutable
  parallel safe
return p_address <<= any (p_allowed_networks)
  or not p_address <<= any (webhookpub.closed_networks());

comment on function webhookpub.address_is_open (inet, cidr[]) is
  'Whether an address is public unicast or in one of these networks.';
