-- Tells the session that changes it when a webhook goes on, off, or is left alone.
--
-- Called by  the trigger webhooks_tell.
--
-- Whatever the reason was: a worker puts it into its log, and psql shows it to an operator.

create or replace function webhookpub.tg_webhooks__tell ()
  returns trigger
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_event text;
begin
  foreach v_event in array array_remove(array[
    case when new.enabled <> old.enabled
      then case when new.enabled then 'webhook_enabled' else 'webhook_disabled' end
    end,
    case when (new.circuit_opened_at is null) <> (old.circuit_opened_at is null)
      then case when new.circuit_opened_at is null then 'circuit_closed' else 'circuit_opened' end
    end
  ], null) loop
    raise notice using
      message = format(
        '%s: %s%s', replace(v_event, '_', ' '), new.id,
        case v_event when 'webhook_disabled' then ': ' || new.disabled_reason end
      ),
      detail = jsonb_strip_nulls(jsonb_build_object(
        'event', v_event,
        'webhook_id', new.id,
        'reason', case v_event when 'webhook_disabled' then new.disabled_reason end
      ));
  end loop;
  return null;
end;
$$;

comment on function webhookpub.tg_webhooks__tell () is
  'Tells the session that changes it when a webhook is enabled, disabled, left alone or not any more.';
