-- Says whose webhooks these are, so that a worker can share fairly.
--
-- Called by  webhookpub.fan_out_batch.
-- Returns    the user of each, in the same order; null for null.

create or replace function webhookpub.users_of (
  p_webhook_ids text[]
)
  returns text[]
  language plpgsql
  stable
as $$
begin
  if p_webhook_ids is null then
    return null;
  end if;
  return array(
    select (select w.user_id from webhookpub.webhooks as w where w.id = p.id)
    from unnest(p_webhook_ids) with ordinality as p (id, n)
    order by p.n
  );
end;
$$;

comment on function webhookpub.users_of (text[]) is
  'The user of each of these webhooks.';
