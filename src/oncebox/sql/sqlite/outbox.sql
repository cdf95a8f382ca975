-- name: append append_many
-- Run once for each event. ?1 source, ?2 id as text, ?3 key or null, ?4 type, ?5 version, ?6 data
insert into oncebox_event (source, sequence, stamp, previous, before, id, key, type, version, data)
select ?1, case when ?3 is not null then coalesce(c.sequence, 0) + 1 end,
  max(cast((julianday('now') - 2440587.5) * 86400000 + 0.5 as integer) * 1024000
        + abs(random() % 1024000),
      (max(coalesce(c.stamp, 0), coalesce(s.low, 0)) | 1023) + 1 + (random() & 1023)),
  c.stamp, c.n, ?2, ?3, ?4, ?5, ?6
from (select 1)
  left join oncebox_source s on s.name = ?1
  left join oncebox_counter c on c.source = ?1 and c.key = ?3;

-- name: append_with append_many_with
-- As append, and ?7 content type, ?8 attributes (a JSON object of strings), ?9 source, ?10 key and
-- ?11 stamp of the event that has to be first (null: its key's last one); each may be null.
insert into oncebox_event (source, sequence, stamp, previous, before, id, key, type, version, data,
                           content_type, attributes, after_source, after_key, after_stamp)
select ?1, case when ?3 is not null then coalesce(c.sequence, 0) + 1 end,
  max(cast((julianday('now') - 2440587.5) * 86400000 + 0.5 as integer) * 1024000
        + abs(random() % 1024000),
      (max(coalesce(c.stamp, 0), coalesce(s.low, 0)) | 1023) + 1 + (random() & 1023)),
  c.stamp, c.n, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, coalesce(?11, a.stamp)
from (select 1)
  left join oncebox_source s on s.name = ?1
  left join oncebox_counter c on c.source = ?1 and c.key = ?3
  left join oncebox_counter a on a.source = ?9 and a.key = ?10;

-- name: quiet
-- Nothing: there is no function that emits.
select ?1;

-- name: sources
select name from oncebox_source order by name;

-- name: identity
-- A restored file brings its cursor along, so there is nothing to notice.
select 'sqlite';

-- name: peek
-- Whether there is something to read: above position ?1, or in the holes ?2, a JSON array of
-- [first, last].
select exists (select 1 from oncebox_event where n > ?1)
    or exists (select 1 from json_each(?2) hole, oncebox_event e
               where e.n between json_extract(hole.value, '$[0]') and json_extract(hole.value, '$[1]'));

-- name: move
-- The relay ?1 of place ?2 under term ?3 has position ?4, read under identity ?5, its lease runs
-- on for ?6 ms. No row: the term is another's.
update oncebox_cursor set
  position = ?4, identity = ?5,
  lease_until = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + ?6
where reader = ?1 and topic = ?2 and partition = 0 and term = ?3
returning 1;

-- name: read
-- Events in the order of their positions: those above ?1 and those in the holes ?2 (as in peek),
-- at most ?3, of at most ?4 bytes together but for a first one; only the place where the source does
-- not begin with ?5.
with both_kinds as (
  select e.n from json_each(?2) hole, oncebox_event e
  where e.n between json_extract(hole.value, '$[0]') and json_extract(hole.value, '$[1]')
  union all
  select n from oncebox_event where n > ?1
  order by n limit ?3
), batch as (
  select e.n, coalesce(length(e.data), 0) as size,
    sum(coalesce(length(e.data), 0)) over (order by e.n rows unbounded preceding) as total
  from both_kinds b join oncebox_event e on e.n = b.n
)
select e.n, e.n, e.source, e.key, e.sequence, e.stamp, e.previous, e.after_stamp,
  case when substr(e.source, 1, length(?5)) = ?5 then e.id end,
  e.type, e.version, e.content_type, e.attributes, e.after_source, e.after_key, cast(e.data as blob)
from batch s join oncebox_event e on e.n = s.n
where s.total <= ?4 or s.total = s.size
order by s.n;

-- name: links
-- Where the events of a source's key are, from number ?3 on to its last one: position, chain, id,
-- whether void. From the last one back; what retention has dropped ends it.
with recursive back(n, sequence, stamp, previous, id, void, before) as (
  select e.n, e.sequence, e.stamp, e.previous, e.id, e.data is null, e.before
  from oncebox_counter k join oncebox_event e on e.n = k.n
  where k.source = ?1 and k.key = ?2
  union all
  select e.n, e.sequence, e.stamp, e.previous, e.id, e.data is null, e.before
  from back b join oncebox_event e on e.n = b.before
  where b.sequence > ?3
)
select n, sequence, stamp, previous, id, void from back where sequence >= ?3 order by sequence;

-- name: numbering
-- Nobody: there is one writer, so whatever is below the newest event is there or never will be.
select 1 where 0;

-- name: refused
-- Keys of sources that begin with ?1 whose next event the log did not take.
select source, key, position, sequence, attempts, permanent, retry_at, reason
from oncebox_refused where substr(source, 1, length(?1)) = ?1 order by position;

-- name: refuse
insert into oncebox_refused
  (source, key, position, sequence, attempts, permanent, retry_at, reason)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8);

-- name: forget_refusal
delete from oncebox_refused where position = ?1;

-- name: retry_refused
update oncebox_refused set retry_at = 0 where position = ?1;

-- name: void
update oncebox_event set data = null, attributes = null where n = ?1;

-- name: backlog
-- Events above position ?1, nearly: numbers that were rolled back count too. And the stamp of the
-- first of them.
select coalesce((select max(n) from oncebox_event), 0) - ?1,
       (select stamp from oncebox_event where n > ?1 order by n limit 1);

-- name: maintain
-- If ?1 is 'event': delete what is older than ?2 seconds and needed by no relay, but never the
-- newest, and at most 5,000 at once, since writers wait meanwhile. A row for each. ?3 and ?4 are
-- for partitions.
delete from oncebox_event where n in (
  select n from oncebox_event
  where ?1 = 'event' and ?3 is not null and ?4 is not null
    and stamp < CAST((julianday('now') - 2440587.5) * 86400000 - ?2 * 1000 AS INTEGER) * 1024000
    and n < (select max(n) from oncebox_event)
    and n < (
      select min(coalesce(json_extract(c.position, '$[0]'), 0))
      from (select distinct substr(name, 2, instr(substr(name, 2), '/') - 1) as service
            from oncebox_source) s
        left join oncebox_cursor c on c.reader = 'relay:' || s.service)
  order by n limit 5000
) returning n;
