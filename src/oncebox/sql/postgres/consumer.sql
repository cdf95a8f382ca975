-- name: subscribe
insert into oncebox.subscription (consumer, source, floor, had)
select $1, $2, $3, coalesce(
  (select had from oncebox.subscription where consumer = $1 and source = ''), -1)
on conflict (consumer, source) do nothing;

-- name: subscriptions
select source, id, floor, had from oncebox.subscription where consumer = $1;

-- name: begin_position
-- A cursor that never stood anywhere starts here.
update oncebox.cursor set position = $5, identity = $6
where reader = $1 and topic = $2 and partition = $3 and term = $4
returning position;

-- name: limits
-- A process that was stopped inside its batch must not hold the keys' locks for ever.
select set_config('statement_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout', $2, true);

-- name: fence
-- Rows: the cursors that are still ours and stand where we think. They stay locked.
update oncebox.cursor c set open_batch = 1
from unnest($2::text[], $3::int[], $4::bigint[], $5::text[]) as v (topic, partition, term, position)
where c.reader = $1 and c.topic = v.topic and c.partition = v.partition
  and c.term = v.term and c.position = v.position
returning c.topic, c.partition;

-- name: close_batch
-- Fails without such a row: a handler rolled back, and the batch is not what it seems. Owners that
-- died here are forgotten when the position moves.
with closed as (update oncebox.cursor set
  position = $5, open_batch = null,
  takeovers = case when position = $5 then takeovers else 0 end,
  suspect = case when position = $5 then suspect end,
  lease_until = (extract(epoch from clock_timestamp()) * 1000)::bigint + $6,
  applied = applied + $7, ignored = ignored + $8, voided = voided + $9,
  duplicates = duplicates + $10, late = late + $11, orphans = orphans + $12,
  before_start = before_start + $13, forks = forks + $14, quarantined = quarantined + $15
where reader = $1 and topic = $2 and partition = $3 and term = $4 and open_batch = 1
returning 1)
select 1 / count(*) from closed;

-- name: open_batch
-- For a batch without a fence, as in tests of handlers.
insert into oncebox.open_batch (closed) values (1)
returning set_config('oncebox.open_batch', ctid::text, true);

-- name: shut_batch
-- Fails as close_batch does. Its row is found by its place, among the many that others had.
with shut as (
  delete from oncebox.open_batch
  where ctid = nullif(current_setting('oncebox.open_batch', true), '')::tid returning 1)
select 1 / count(*) from shut;

-- name: keep_in
-- Events that are handled side by side share this with each other, and with no rebuild.
select pg_advisory_xact_lock_shared(hashtextextended('oncebox consumer ' || $1, 0));

-- name: keep_out
select pg_advisory_xact_lock(hashtextextended('oncebox consumer ' || $1, 0));

-- name: enter
-- limits and keep_in at once. A statement's time limit is that which it began with: so there is one for
-- the wait here alone, and then again whatever it was.
select set_config('lock_timeout', $2, true),
       pg_advisory_xact_lock_shared(hashtextextended('oncebox consumer ' || $1, 0)),
       set_config('lock_timeout', before.lock_timeout, true),
       set_config('statement_timeout', $2, true),
       set_config('idle_in_transaction_session_timeout', $3, true)
from (select current_setting('lock_timeout') as lock_timeout offset 0) before;

-- name: open_under
-- The same for a batch under a term that others work under, too. No row: the term is not ours.
insert into oncebox.open_batch (closed) select 1 from oncebox.cursor
where reader = $1 and topic = $2 and partition = $3 and term = $4
returning set_config('oncebox.open_batch', ctid::text, true);

-- name: suspect
update oncebox.cursor set suspect = $5
where reader = $1 and topic = $2 and partition = $3 and term = $4
returning 1;

-- name: lock_keys
-- Rows of subscription $1 with a key of $2, locked in the order of keys; and whether there is more to
-- know, see key_rest. A look-up for each: as long as nobody has analysed a table that grows, `any` is
-- planned to compare each row with each key.
select k.*
from (select u.key from unnest($2::text[]) as u (key) order by u.key collate "C") v
  cross join lateral (
    select k.key, k.sequence, k.stamp, k.id, k.digest, k.cutoff,
      k.park is not null or k.kept > 0 or k.attempts > 0 or k.awaited or k.due_ms is not null
        or k.skipped is not null or k.reason is not null or k.had >= 0
    from oncebox.key k where k.subscription = $1 and k.key = v.key for update) k;

-- name: lock_key
-- The same for one key.
select k.key, k.sequence, k.stamp, k.id, k.digest, k.cutoff,
  k.park is not null or k.kept > 0 or k.attempts > 0 or k.awaited or k.due_ms is not null
    or k.skipped is not null or k.reason is not null or k.had >= 0
from oncebox.key k where k.subscription = $1 and k.key = $2 for update;

-- name: open_key
-- open_under and lock_key at once: no row: the term is not ours; nothing but nulls: the key has none.
with opened as (
  insert into oncebox.open_batch (closed) select 1 from oncebox.cursor
  where reader = $1 and topic = $2 and partition = $3 and term = $4
  returning set_config('oncebox.open_batch', ctid::text, true))
select k.* from opened left join lateral (
  select k.key, k.sequence, k.stamp, k.id, k.digest, k.cutoff,
    k.park is not null or k.kept > 0 or k.attempts > 0 or k.awaited or k.due_ms is not null
      or k.skipped is not null or k.reason is not null or k.had >= 0
  from oncebox.key k where k.subscription = $5 and k.key = $6 for update) k on true;

-- name: key_rest
-- What nearly no row has.
select k.key, k.park, k.skipped, k.kept, k.awaited, k.attempts, k.reason, k.parked_ms, k.due_ms,
  k.had
from oncebox.key k where k.subscription = $1 and k.key = any ($2::text[]);

-- name: add_keys
insert into oncebox.key (subscription, key)
select subscription, key from unnest($1::int[], $2::text[]) as v (subscription, key)
order by subscription, key
on conflict do nothing;

-- name: add_key
insert into oncebox.key (subscription, key) values ($1, $2) on conflict do nothing;

-- name: move_keys
-- The common write: the event last done, and nothing else. Its rows are locked, see lock_keys: so they
-- stay where they are found.
update oncebox.key k set sequence = v.sequence, stamp = v.stamp, id = v.id, digest = v.digest
from unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[])
    as v (subscription, key, sequence, stamp, id, digest)
  cross join lateral (
    select f.ctid as place from oncebox.key f
    where f.subscription = v.subscription and f.key = v.key offset 0) f
where k.ctid = f.place;

-- name: move_key
-- The same for one.
update oncebox.key set sequence = $3, stamp = $4, id = $5, digest = $6
where subscription = $1 and key = $2;

-- name: shut_key
-- move_key and shut_batch at once.
with moved as (
  update oncebox.key set sequence = $3, stamp = $4, id = $5, digest = $6
  where subscription = $1 and key = $2),
shut as (
  delete from oncebox.open_batch
  where ctid = nullif(current_setting('oncebox.open_batch', true), '')::tid returning 1)
select 1 / count(*) from shut;

-- name: write_key
update oncebox.key set sequence = $3, stamp = $4, id = $5, digest = $6, cutoff = $7, park = $8,
  skipped = $9, kept = $10, awaited = $11, attempts = $12, reason = $13, parked_ms = $14,
  due_ms = $15, had = $16
where subscription = $1 and key = $2;

-- name: load_kept
-- The lowest $1 events kept behind each of these keys, as many as have $2 bytes; one at the least.
select e.subscription, e.key, e.sequence, e.stamp, e.previous, e.id, e.digest, e.void, e.record
from unnest($3::int[], $4::text[]) as v (subscription, key)
cross join lateral (
  select f.*, sum(octet_length(f.record)) over (order by f.sequence, f.stamp
    rows between unbounded preceding and 1 preceding) as before
  from (select * from oncebox.kept k where k.subscription = v.subscription and k.key = v.key
        order by k.sequence, k.stamp limit $1) f) e
where coalesce(e.before, 0) < $2;

-- name: kept_near
-- What is kept at (sequence, stamp) of each of these keys, and all at the places before and behind.
select e.subscription, e.key, e.sequence, e.stamp, e.previous, e.id, e.digest, e.void, null::bytea
from unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[]) as v (subscription, key, sequence, stamp)
cross join lateral (
  select v.sequence, v.stamp
  union all
  (select k.sequence, k.stamp from oncebox.kept k
   where k.subscription = v.subscription and k.key = v.key
     and (k.sequence, k.stamp) < (v.sequence, v.stamp) order by k.sequence desc, k.stamp desc limit 1)
  union all
  (select k.sequence, k.stamp from oncebox.kept k
   where k.subscription = v.subscription and k.key = v.key
     and (k.sequence, k.stamp) > (v.sequence, v.stamp) order by k.sequence, k.stamp limit 1)
) place (sequence, stamp)
join oncebox.kept e on e.subscription = v.subscription and e.key = v.key
  and e.sequence = place.sequence and e.stamp = place.stamp;

-- name: add_kept
insert into oncebox.kept (subscription, key, sequence, stamp, previous, id, digest, void,
  after_subscription, after_key, after_stamp, kept_ms, record)
select * from unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[],
  $7::bigint[], $8::boolean[], $9::int[], $10::text[], $11::bigint[], $12::bigint[], $13::bytea[])
on conflict do nothing;

-- name: drop_kept
delete from oncebox.kept e
using unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[],
  $7::boolean[]) as v (subscription, key, sequence, stamp, id, digest, void)
where e.subscription = v.subscription and e.key = v.key and e.sequence = v.sequence
  and e.stamp = v.stamp and e.id = v.id and e.digest = v.digest and e.void = v.void;

-- name: awaited
-- How far keys are that others wait for, where they are marked so. Not locked.
select k.*
from unnest($1::int[], $2::text[]) as v (subscription, key) cross join lateral (
  select k.subscription, k.key, k.stamp from oncebox.key k
  where k.subscription = v.subscription and k.key = v.key and k.awaited offset 0) k;

-- name: waiters
-- Keys with an event that waited for one of these, which was at `before` and is at `stamp` now.
select distinct e.subscription, e.key
from unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[]) as v (subscription, key, before, stamp)
join oncebox.kept e on e.after_subscription = v.subscription and e.after_key = v.key
where e.after_stamp > v.before and e.after_stamp <= v.stamp;

-- name: released_waiters
-- The same for a whole consumer: whoever died between a commit and its wake-ups is made good. Only
-- keys where the event is next, and so can go on: those with a gap would fill every page.
select distinct e.subscription, e.key
from oncebox.kept e
join oncebox.subscription s on s.id = e.subscription and s.consumer = $1
join oncebox.key k on k.subscription = e.subscription and k.key = e.key and k.park is null
join oncebox.key a on a.subscription = e.after_subscription and a.key = e.after_key
where e.after_key is not null and a.stamp >= e.after_stamp
  and case when k.sequence >= 0
    then e.sequence = k.sequence + 1 and coalesce(e.previous, -1) = k.stamp
    else coalesce(e.previous, -1) < s.floor and s.floor <= e.stamp end
limit $2;

-- name: take_due
-- Keys of $1 whose time has come at $2, at most $3, to be gone on with. Each try counts before it
-- is made and the next one is put off ($5 ms, doubling up to $6; none is left after $4): so a
-- handler that kills its process spends its tries, and of two owners that look only one has it. A
-- time more than $7 ms ahead was given before the clock was set back: it has come.
update oncebox.key k set attempts = k.attempts + 1, due_ms = case
  when k.park is not null and k.attempts + 1 >= $4 then null
  else $2::bigint + least($5::bigint << least(k.attempts, 20), $6::bigint) end
from (
  select k.subscription, k.key
  from oncebox.key k join oncebox.subscription s on s.id = k.subscription and s.consumer = $1
  where k.due_ms <= $2::bigint or k.due_ms > $2::bigint + $7::bigint
  order by k.due_ms limit $3 for update of k skip locked) due  -- locked: somebody is at it
where k.subscription = due.subscription and k.key = due.key
returning k.subscription, k.key;

-- name: held
-- How much waits: keys parked, keys with a gap, events kept, bytes kept.
select
  (select count(*) from oncebox.key k join oncebox.subscription s on s.id = k.subscription
    where s.consumer = $1 and k.park is not null),
  (select count(*) from oncebox.key k join oncebox.subscription s on s.id = k.subscription
    where s.consumer = $1 and k.park is null and k.kept > 0),
  (select count(*) from oncebox.kept e join oncebox.subscription s on s.id = e.subscription
    where s.consumer = $1),
  (select coalesce(sum(octet_length(e.record)), 0)::bigint
    from oncebox.kept e join oncebox.subscription s on s.id = e.subscription
    where s.consumer = $1);

-- name: note
insert into oncebox.journal (at_ms, what, consumer, source, key, sequence, stamp, id, detail)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: quarantine
-- Once each; at a place of a topic that was made anew, another record is another one.
insert into oncebox.quarantine (at_ms, consumer, topic, partition, "offset", reason, record)
select $1::bigint, $2::text, $3::text, $4::int, $5::bigint, $6::text, $7::bytea
where not exists (
  select from oncebox.quarantine
  where consumer = $2 and topic = $3 and partition = $4 and "offset" = $5 and record = $7);

-- name: effects
select step, key, done_ms, result from oncebox.effect
where consumer = $1 and source = $2 and id = $3;

-- name: intend
-- Rows: how often it was intended since anything was heard of it.
insert into oncebox.effect as e (consumer, source, id, step, key, begun_ms)
values ($1, $2, $3, $4, $5, $6)
on conflict (consumer, source, id, step) do update set tries = e.tries + 1
returning tries;

-- name: effect_lived
-- It failed, and did not take its process with it.
update oncebox.effect set tries = 0 where consumer = $1 and source = $2 and id = $3 and step = $4;

-- name: effect_done
-- The result that holds: of two owners that had the effect, the first's, which handlers have seen.
update oncebox.effect set done_ms = coalesce(done_ms, $5), result = coalesce(result, $6)
where consumer = $1 and source = $2 and id = $3 and step = $4
returning result;
