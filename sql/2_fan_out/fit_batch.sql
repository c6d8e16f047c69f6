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
  select
    array_agg(b.at order by b.n)
      filter (where not b.is_heavy and b.so_far <= 2000 and b.n <= p_limit) as light,
    array_agg(b.at) filter (where b.is_heavy) as heavy
  into v_fit
  from (
    select w.at, w.is_heavy, sum(w.weight) over t as so_far, row_number() over t as n
    from (
      select
        e.ctid as at, e.id, e.expires_at, x.weight, x.weight > 1000 as is_heavy,
        row_number() over (
          partition by e.user_id, x.weight > 1000 order by e.expires_at, e.id
        ) as turn
      from webhookpub.events as e
      join (
        select u.user_id, w.count, w.readers
        from (
          select distinct e.user_id from webhookpub.events as e where e.ctid = any (p_at)
        ) as u
        cross join lateral (
          select count(*) as count, count(w.filter_data) as readers
          from (
            select w.filter_data
            from webhookpub.webhooks as w
            where w.user_id = u.user_id and w.enabled
            limit 1001 -- More make no difference.
          ) as w
        ) as w
        offset 0 -- Counted once a user.
      ) as u on u.user_id = e.user_id
      cross join lateral (
        select u.count + coalesce(octet_length(e.envelope), 0) / 16384 * (1 + u.readers) as weight
      ) as x
      where e.ctid = any (p_at)
    ) as w
    window t as (partition by w.is_heavy order by w.turn, w.expires_at, w.id)
  ) as b;
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
