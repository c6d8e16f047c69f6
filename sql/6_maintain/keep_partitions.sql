-- Drops a partition that has expired or makes one that is missing: one a round, for the locks of
-- one table are held until it commits, and with those of another it would wait for that, too.
--
-- Called by  webhookpub.maintain.
-- Locks      those of webhookpub.drop_partitions or webhookpub.create_partitions.
-- Returns    how many of each.

create or replace function webhookpub.keep_partitions (
  p_now timestamptz,
  out dropped bigint,
  out created bigint
)
  language plpgsql
  volatile
as $$
declare
  v_settings constant webhookpub.settings := (select s from webhookpub.settings as s);
begin
  created := 0;
  dropped := webhookpub.drop_partitions(
    'webhookpub.envelopes', p_now - v_settings.event_retention
  );
  if dropped = 0 then
    dropped := webhookpub.drop_partitions(
      'webhookpub.attempts', p_now - v_settings.attempt_retention
    );
  end if;
  if dropped = 0 then
    created := webhookpub.create_partitions('webhookpub.envelopes', p_limit => 1);
    if created = 0 then
      created := webhookpub.create_partitions('webhookpub.attempts', p_limit => 1);
    end if;
  end if;
end;
$$;

comment on function webhookpub.keep_partitions (timestamptz) is
  'Drops a partition of envelopes or attempts that has expired, or makes one; returns how many of each.';
