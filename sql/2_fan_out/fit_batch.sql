-- Chooses from events that are locked as many as one statement can do in a moment.
--
-- Called by  webhookpub.next_events.
-- Returns    where they are: at least one, and no more than p_limit.
--
-- An event weighs as much as it may become: 1 for each webhook of its user, and 1 for each 16 KiB
-- to be read, and again for each webhook that looks into them. Users take turns until 2,000 are
-- together. What is heavy by itself, or has failed before, goes alone: every second batch is
-- for such a one, if there are others, so that neither waits for all of the other. The session
-- keeps whose turn it is.

create or replace function webhookpub.fit_batch (
  p_at tid[],
  p_limit integer
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  v_is_heavys_turn constant boolean := current_setting('webhookpub.heavy_is_next', true) = 'on';
  v_after constant text := coalesce(current_setting('webhookpub.heavy_turn', true), '');
begin
  return (
    select array_agg(b.at order by b.n)
    from (
      select
        w.at, w.is_heavy,
        bool_or(w.is_heavy) over a and (v_is_heavys_turn or bool_and(w.is_heavy) over a) as heavy_goes,
        sum(w.weight) over t as so_far,
        row_number() over t as n
      from (
        select
          e.ctid as at, e.id, e.user_id, e.expires_at, x.weight, y.is_heavy,
          row_number() over (
            partition by e.user_id, y.is_heavy order by e.expires_at, e.id
          ) as turn
        from webhookpub.events as e
        join (
          select u.user_id, w.count, w.readers
          from (
            select distinct e.user_id from webhookpub.events as e where e.ctid = any (p_at)
          ) as u
          cross join lateral (
            select count(*) as count, count(w.filter_data) as readers
            from webhookpub.webhooks as w
            where w.user_id = u.user_id and w.enabled
          ) as w
          offset 0 -- Counted once a user.
        ) as u on u.user_id = e.user_id
        cross join lateral (
          select u.count + coalesce(octet_length(e.envelope), 0) / 16384 * (1 + u.readers) as weight
        ) as x
        cross join lateral (
          select e.last_error is not null or x.weight > 1000 as is_heavy
        ) as y
        where e.ctid = any (p_at)
      ) as w
      window a as (), t as (
        partition by w.is_heavy
        order by
          w.turn, case when w.is_heavy then w.user_id <= v_after end,
          case when w.is_heavy then w.user_id end, w.expires_at, w.id
      )
    ) as b
    where b.is_heavy = b.heavy_goes
      and case when b.is_heavy then b.n = 1 else b.so_far <= 2000 and b.n <= p_limit end
  );
end;
$$;

comment on function webhookpub.fit_batch (tid[], integer) is
  'Which of these events go into one batch, by what each may become and by turns of users.';
