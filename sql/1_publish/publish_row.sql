-- Publishes the change of a row: a trigger function for those who would rather write none.
--
-- Called by  AFTER triggers FOR EACH ROW: execute function webhookpub.publish_row(event type,
--            column of the user's id [, column of the row's id [, columns for the payload …]]).
-- Raises     WH007 when the trigger is not made for it; and what webhook_publish_tx raises.
--
-- The row's id becomes message_id and ordering key. Each change is an event of its own: the
-- transaction and the time tell it from others of the row. Whoever repeats a transaction that
-- was committed changes nothing the second time, and then nothing is published.
--
-- What it says of a row does not depend on who changes it: what values are printed by is pinned.
--
-- It runs with the rights of who changes the row, who needs EXECUTE on webhook_publish_tx: to make
-- JSON of a row can call functions of whoever made its types.

create or replace function webhookpub.publish_row ()
  returns trigger
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, MDY'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set extra_float_digits = 1
  set bytea_output = 'hex'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_row constant jsonb := case tg_op when 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
  v_id constant text := v_row ->> tg_argv[2];
  v_columns constant text[] := case when tg_nargs > 3 then tg_argv[3:] end;
  v_rule text;
  v_object jsonb;
  v_previous jsonb;
begin
  v_rule := case
    when tg_when <> 'AFTER' or tg_level <> 'ROW' then 'it must be an AFTER trigger FOR EACH ROW'
    when tg_nargs < 2 then 'it needs an event type and the column of the user''s id'
    when not v_row ?& tg_argv[1:] then (
      select format('there is no column %I', min(a.name))
      from unnest(tg_argv[1:]) as a (name) where not v_row ? a.name
    )
    when v_row ->> tg_argv[1] is null
      then format('column %I, which holds the user''s id, is null', tg_argv[1])
  end;
  if v_rule is not null then
    raise exception using
      errcode = 'WH007',
      message = format('trigger %I on %s: %s', tg_name, tg_relid::regclass, v_rule),
      hint = 'execute function webhookpub.publish_row(event type, column of the user''s id'
        ' [, column of the row''s id [, columns for the payload …]])';
  end if;

  select
    jsonb_object_agg(c.key, c.value),
    jsonb_object_agg(c.key, o.value) filter (where o.value is distinct from c.value)
  into v_object, v_previous
  from jsonb_each(v_row) as c
  left join jsonb_each(case tg_op when 'UPDATE' then to_jsonb(old) else v_row end) as o using (key)
  where v_columns is null or c.key = any (v_columns);
  if tg_op <> 'UPDATE' or v_previous is not null then
    perform public.webhook_publish_tx(
      tg_argv[0], v_row ->> tg_argv[1],
      jsonb_build_object('object', v_object)
        || case when v_previous is null then '{}' else jsonb_build_object('previous', v_previous) end,
      message_id => v_id, ordering_key => v_id,
      dedup_key => case when v_id is not null
        then concat_ws('.', pg_current_xact_id(), extract(epoch from clock_timestamp()))
      end
    );
  end if;
  return null;
end;
$$;

comment on function webhookpub.publish_row () is
  'Trigger function: publishes a changed row. Arguments: event type, column of the user''s id, and if wanted column of the row''s id, which is the ordering key, and columns for the payload (else all). Raises WH007.';
