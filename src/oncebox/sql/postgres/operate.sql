-- What operators look at and change. Consumers go on meanwhile: whoever changes a key has its row
-- locked, in the order in which consumers lock, and whoever moves a position changes its term.

-- name: consumers
select consumer from oncebox.subscription where source = ''
union
select reader from oncebox.cursor where reader not like 'relay:%'
order by 1;

-- name: cursor_rows
select topic, partition, position, identity, term,
  case when lease_until >= (extract(epoch from clock_timestamp()) * 1000)::bigint then holder end,
  lease_until - (extract(epoch from clock_timestamp()) * 1000)::bigint, takeovers, suspect,
  applied, ignored, voided, duplicates, late, orphans, before_start, forks, quarantined
from oncebox.cursor where reader = $1 order by topic, partition;

-- name: relays
select reader, topic, partition, position,
  case when lease_until >= (extract(epoch from clock_timestamp()) * 1000)::bigint then holder end
from oncebox.cursor where reader like 'relay:%' order by reader, topic, partition;

-- name: held_summary
-- Keys that are tried again by themselves, failed for good, forked; keys not parked with events
-- kept; how many of those have a gap, and since when; all events kept.
select
  count(*) filter (where k.park = 'poison' and k.due_ms is not null),
  count(*) filter (where k.park = 'poison' and k.due_ms is null),
  count(*) filter (where k.park = 'fork'),
  count(*) filter (where k.park is null),
  count(*) filter (where g.missing),
  min(g.since_ms) filter (where g.missing),
  coalesce(sum(k.kept), 0)::bigint
from oncebox.key k
join oncebox.subscription s on s.id = k.subscription and s.consumer = $1
left join lateral (
  select k.park is null and not (case when k.sequence >= 0
      then e.sequence = k.sequence + 1 and coalesce(e.previous, -1) = k.stamp
      else coalesce(e.previous, -1) < s.floor and s.floor <= e.stamp end) as missing,
    (select min(o.kept_ms) from oncebox.kept o
     where o.subscription = k.subscription and o.key = k.key) as since_ms
  from oncebox.kept e where e.subscription = k.subscription and e.key = k.key
  order by e.sequence, e.stamp limit 1) g on true
where k.park is not null or k.kept > 0;

-- name: quarantine_count
select count(*) from oncebox.quarantine where consumer = $1;

-- name: effects_open
-- Effects outside the database that were begun and whose result is not known.
select count(*), min(begun_ms) from oncebox.effect where consumer = $1 and done_ms is null;

-- name: held_keys
-- One page of the keys that wait, each with its lowest kept event, behind ($2, $3).
-- $4 source or null, $5 key or null, $6 how many, $7 bytes of a record that is returned at most.
select k.subscription, s.source, s.floor, k.key, k.sequence, k.stamp, k.park, k.reason,
  k.attempts, k.parked_ms, k.due_ms, k.kept,
  e.sequence, e.stamp, e.previous, e.id, e.void, a.source, e.after_key, e.after_stamp,
  (select min(o.kept_ms) from oncebox.kept o
   where o.subscription = k.subscription and o.key = k.key),
  case when octet_length(e.record) <= $7 then e.record end
from oncebox.key k
join oncebox.subscription s on s.id = k.subscription and s.consumer = $1
left join lateral (
  select * from oncebox.kept e where e.subscription = k.subscription and e.key = k.key
  order by e.sequence, e.stamp limit 1) e on true
left join oncebox.subscription a on a.id = e.after_subscription
where (k.park is not null or k.kept > 0) and (k.subscription, k.key) > ($2::int, $3::text)
  and ($4::text is null or s.source = $4) and ($5::text is null or k.key = $5)
order by k.subscription, k.key limit $6;

-- name: kept_record
select record from oncebox.kept
where subscription = $1 and key = $2 and sequence = $3 and stamp = $4 and id = $5
limit 1;

-- name: known_key
-- The rows that a key has, held or not.
select s.source, k.sequence, k.stamp from oncebox.key k
join oncebox.subscription s on s.id = k.subscription and s.consumer = $1
where k.key = $2 and ($3::text is null or s.source = $3)
order by s.source;

-- name: make_due
-- Rows: the keys that are tried again now. A key without a row was parked, perhaps, since its event
-- is older than the floor: now somebody says that it was not done, so the row stands before it.
update oncebox.key k set due_ms = $1, attempts = 0,
  sequence = case when k.sequence < 0 then first.sequence - 1 else k.sequence end,
  stamp = case when k.sequence < 0 then coalesce(first.previous, -1) else k.stamp end
from unnest($2::int[], $3::text[]) as v (subscription, key), lateral (
  select e.sequence, e.previous from oncebox.kept e
  where e.subscription = v.subscription and e.key = v.key
  order by e.sequence, e.stamp limit 1) first
where k.subscription = v.subscription and k.key = v.key and k.park = 'poison'
returning k.subscription, k.key;

-- name: wake_key
update oncebox.key set due_ms = $3 where subscription = $1 and key = $2;

-- name: drop_wait
-- An event that waited for one of another key, without that wait: $6 is its record without it.
update oncebox.kept set after_subscription = null, after_key = null, after_stamp = null, record = $6
where subscription = $1 and key = $2 and sequence = $3 and stamp = $4 and id = $5
returning 1;

-- name: orphaned
-- Rows: key and event (a Link as JSON) that `accept` gave up, and that is in no accepted history
-- since.
select o.key, o.detail
from unnest($3::text[]) as v (key)
join oncebox.journal o on o.consumer = $1 and o.source = $2 and o.key = v.key and o.what = 'orphaned'
where not exists (
  select 1 from oncebox.journal a
  where a.consumer = $1 and a.source = $2 and a.key = v.key and a.id = o.id and a.n > o.n
    and a.what in ('orphaned', 'adopted'))
order by o.n;

-- name: journal
-- The newest notes below $2, newest first; $3 what, $4 key, each null for all.
select n, at_ms, what, source, key, sequence, stamp, id, detail from oncebox.journal
where consumer = $1 and n < $2 and ($3::text is null or what = $3) and ($4::text is null or key = $4)
order by n desc limit $5;

-- name: gap_source
-- Keys of a source that wait for an event that has not come since $3, the longest waiting first.
select k.key
from oncebox.key k
join oncebox.subscription s on s.id = k.subscription and s.consumer = $1 and s.source = $2
cross join lateral (
  select e.sequence, e.stamp, e.previous from oncebox.kept e
  where e.subscription = k.subscription and e.key = k.key
  order by e.sequence, e.stamp limit 1) e
cross join lateral (
  select min(o.kept_ms) as since_ms from oncebox.kept o
  where o.subscription = k.subscription and o.key = k.key) o
where k.kept > 0 and k.park is null and o.since_ms <= $3
  and not (case when k.sequence >= 0
    then e.sequence = k.sequence + 1 and coalesce(e.previous, -1) = k.stamp
    else coalesce(e.previous, -1) < s.floor and s.floor <= e.stamp end)
order by o.since_ms, k.key limit $4;

-- name: lock_cursors
select topic, partition, position, term from oncebox.cursor
where reader = $1 order by topic, partition for update;

-- name: set_back
-- Whoever holds the cursor is fenced by the new term, takes it again, and reads from here.
update oncebox.cursor set position = $4, term = term + 1, holder = null, lease_until = 0,
  takeovers = 0, suspect = null
where reader = $1 and topic = $2 and partition = $3
returning term;

-- name: reset_cursors
-- As if the consumer had never read: it begins where its settings say.
update oncebox.cursor set position = null, identity = null, term = term + 1, holder = null,
  lease_until = 0, takeovers = 0, suspect = null, applied = 0, ignored = 0, voided = 0,
  duplicates = 0, late = 0, orphans = 0, before_start = 0, forks = 0, quarantined = 0
where reader = $1;

-- name: clear_kept
delete from oncebox.kept
where subscription in (select id from oncebox.subscription where consumer = $1);

-- name: forget_keys
-- As if no event had been done; up to where each key was, unless $2, nothing is emitted again.
update oncebox.key set
  had = case when $2::boolean then -1 else greatest(had, stamp) end,
  sequence = -1, stamp = -1, id = '', digest = 0, cutoff = 0, park = null, skipped = null, kept = 0,
  awaited = false, attempts = 0, reason = null, parked_ms = null, due_ms = null
where subscription in (select id from oncebox.subscription where consumer = $1);

-- name: forget_floors
-- The floor that the consumer began with; what was pruned below another one was had.
update oncebox.subscription s set
  floor = coalesce((select b.floor from oncebox.subscription b
                    where b.consumer = $1 and b.source = ''), 0),
  had = case when $2::boolean then -1 else greatest(s.had, s.floor - 1) end
where s.consumer = $1 and s.source not like '%#claim';

-- name: begin_quietly
-- A consumer that begins: its floor, and the stamp up to which nothing is emitted.
insert into oncebox.subscription (consumer, source, floor, had) values ($1, '', $2, $3)
on conflict (consumer, source) do update set had = excluded.had;

-- name: finish_keys
update oncebox.key set had = -1
where had >= 0 and subscription in (select id from oncebox.subscription where consumer = $1);

-- name: finish_subscriptions
update oncebox.subscription set had = -1 where consumer = $1 and had >= 0;

-- name: begin_rebuild
insert into oncebox.rebuild (consumer, topic, partition, until, begun_ms) values ($1, $2, $3, $4, $5)
on conflict (consumer, topic, partition)
do update set until = excluded.until, begun_ms = excluded.begun_ms;

-- name: rebuilding
select topic, partition, until from oncebox.rebuild where consumer = $1 order by topic, partition;

-- name: end_rebuild
delete from oncebox.rebuild where consumer = $1 returning topic, partition;

-- name: clear_quarantine
delete from oncebox.quarantine where consumer = $1;

-- name: quarantined
-- Records from number $2 on, or the one with that number where $3.
select n, at_ms, topic, partition, "offset", reason, record from oncebox.quarantine
where consumer = $1 and (n = $2 or (n > $2 and not $3::boolean))
order by n limit $4;

-- name: quarantine_numbers
select n, topic, partition, "offset", reason, at_ms, octet_length(record) from oncebox.quarantine
where consumer = $1 and n > $2 order by n limit $3;

-- name: lock_quarantined
select record from oncebox.quarantine where consumer = $1 and n = $2 for update;

-- name: drop_quarantined
delete from oncebox.quarantine where consumer = $1 and n = $2 returning 1;

-- name: last_number
-- The number of the last event of a key, whether it is still there or not; no row: no such source.
select (select c.sequence from oncebox.counter c where c.source_id = s.id and c.key = $2)
from oncebox.source s where s.name = $1;

-- name: raise_low
update oncebox.source set low = $2 where starts_with(name, $1) and low < $2;
