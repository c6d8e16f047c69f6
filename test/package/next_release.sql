-- What a release may bring while workers of the one before go on, all at once: columns, and a
-- parameter with a default and a column more of each function that workers call.

--!include 5_retry/default_retry_schedule.sql

do $$
declare
  v_one record;
begin
  for v_one in
    select
      p.oid::regprocedure::text as signature,
      p.proname as name,
      pg_get_function_arguments(p.oid) as arguments,
      pg_get_function_result(p.oid) as result,
      p.proargmodes is not null as is_row,
      array_to_string(array(select '$' || i from generate_series(1, p.pronargs) as i), ', ') as given
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace
      and p.proname in (
        'fan_out_batch', 'lease_deliveries', 'lease_requests', 'record_attempts',
        'release_deliveries', 'wake'
      )
  loop
    execute format('alter function %s rename to %I', v_one.signature, 'before_' || v_one.name);
    execute format(
      'create function webhookpub.%I (%s, p_next text default null%s) %s
         language sql volatile security definer set search_path = pg_catalog, pg_temp
         as %L',
      v_one.name, v_one.arguments,
      case when v_one.is_row and v_one.result not like 'TABLE%' then ', out next_column text' else '' end,
      case
        when v_one.result like 'TABLE%'
          then 'returns ' || regexp_replace(v_one.result, '\)$', ', next_column text)')
        when v_one.is_row then ''
        else 'returns ' || v_one.result
      end,
      format(
        case when v_one.is_row then 'select o.*, null::text from webhookpub.%I (%s) as o'
          else 'select webhookpub.%I (%s)' end,
        'before_' || v_one.name, v_one.given
      )
    );
  end loop;
end;
$$;

select webhookpub.settle_privileges(p_quietly => true);
select webhookpub.install_roles();

-- What needs locks comes last: they stay until the end.
select webhookpub.lock_tables('webhookpub.events', 'webhookpub.webhooks', 'webhookpub.queue');
alter table webhookpub.events add column next_column text;
alter table webhookpub.webhooks add column next_column boolean not null default false;
alter table webhookpub.queue add column next_column integer;
