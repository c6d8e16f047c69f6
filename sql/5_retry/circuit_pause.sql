-- Says how long a webhook is left alone that did not answer so many times in a row.
--
-- Called by  webhookpub.rate_webhooks.
-- Returns    null while its circuit stays closed; from the fifth on 10 s, doubled each
--            time, up to 5 min, with up to 10 % jitter either way.

create or replace function webhookpub.circuit_pause (
  p_unanswered integer
)
  returns interval
  language sql
  volatile
  parallel safe
return case
  when p_unanswered >= 5 then
    interval '1 second'
      * least(10 * 2 ^ least(p_unanswered - 5, 10), 300)
      * (0.9 + 0.2 * random())
end;

comment on function webhookpub.circuit_pause (integer) is
  'How long the circuit of a webhook is open after so many attempts in a row without an answer; null: not at all.';
