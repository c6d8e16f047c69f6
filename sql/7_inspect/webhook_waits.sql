-- Says what a webhook waits for, by all that a lease goes by, of which its readers may not read all.
--
-- Called by  webhookpub.delivery_log, webhookpub.webhook_health.
-- Returns    null when what is due could go out now.

create or replace function webhookpub.webhook_waits (
  p_webhook_id text
)
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case when webhookpub.delivery_is_on() then s.waits_for else 'delivery to be on' end
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, statement_timestamp()) as s
    where w.id = p_webhook_id
  );
end;
$$;

comment on function webhookpub.webhook_waits (text) is
  'What a webhook waits for before anything of it is sent: an enabled webhook, a secret, a closed circuit, the end of a pause, its pace, room, or delivery to be on; null: nothing.';
