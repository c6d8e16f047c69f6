-- Chooses from events that are locked as many as one statement can do in a moment, and moves those
-- that are heavy to their lane, where each goes alone.
--
-- Called by  webhookpub.next_events.
-- Returns    where those are that fit, no more than p_limit; null if all are heavy.
--
-- An event weighs as much as it may become: 1 for each webhook of its user, and 1 for each 16 KiB
-- to be read, and again for each webhook that looks into them. Users take turns until 2,000 are
-- together. What weighs more than 1,000 is heavy.

create or replace function webhookpub.fit_batch (
  p_at tid[],
  p_limit integer
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  v_fit record;
begin
  -- Windows only sort. A join of events with users would be a nested loop where hashing is off.
  select
    array_agg(t.at)
      filter (where t.weight <= 1000 and t.so_far <= 2000 and t.place <= p_limit) as light,
    array_agg(t.at) filter (where t.weight > 1000) as heavy
  into v_fit
  from (
    select
      w.at, w.weight, sum(w.weight) filter (where w.weight <= 1000) over by_turn as so_far,
      count(*) filter (where w.weight <= 1000) over by_turn as place
    from (
      select e.*, max(w.count) over u + e.chunks * (1 + max(w.readers) over u) as weight
      from (
        select
          e.ctid as at, e.id, e.user_id, e.expires_at,
          coalesce(octet_length(e.envelope), 0) / 16384 as chunks,
          row_number() over (partition by e.user_id order by e.expires_at, e.id) as turn
        from webhookpub.events as e
        where e.ctid = any (p_at)
      ) as e
      cross join lateral (
        select count(*) as count, count(w.filter_data) as readers
        from (
          select w.filter_data
          from webhookpub.webhooks as w
          where w.user_id = e.user_id and w.enabled and e.turn = 1 -- Counted once a user.
          limit 1001 -- More make no difference.
        ) as w
      ) as w
      window u as (partition by e.user_id)
    ) as w
    window by_turn as (order by w.turn, w.expires_at, w.id rows unbounded preceding)
  ) as t;
  if v_fit.heavy is not null then
    update webhookpub.events as e
    set pending_user_id = chr(1) || e.user_id
    where e.ctid = any (v_fit.heavy);
  end if;
  return v_fit.light;
end;
$$;

comment on function webhookpub.fit_batch (tid[], integer) is
  'Which of these events go into one batch, by what each may become and by turns of users; moves heavy ones to their lane.';
