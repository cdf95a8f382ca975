-- name: append
-- $1 source, $2 id, $3 key or null, $4 type, $5 version, $6 data
insert into oncebox.event (source, id, key, type, version, data)
values ($1, $2::uuid, $3, $4, $5::int, $6);

-- name: append_with
-- As append, and $7 content type, $8 attributes (a JSON object of strings), $9 source, $10 key and
-- $11 stamp of the event that has to be first; each may be null.
insert into oncebox.event (source, id, key, type, version, data,
                           content_type, attributes, after_source, after_key, after_stamp)
values ($1, $2::uuid, $3, $4, $5::int, $6, $7, $8::json, $9, $10, $11::bigint);

-- name: append_many
-- Arrays of equal length: $1 sources, $2 ids, $3 keys, $4 types, $5 versions, $6 data.
insert into oncebox.event (source, id, key, type, version, data)
select * from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::bytea[]);

-- name: append_many_with
-- As append_many, and arrays $7 to $11 of what append_with takes.
insert into oncebox.event (source, id, key, type, version, data,
                           content_type, attributes, after_source, after_key, after_stamp)
select source, id, key, type, version, data,
       content_type, attributes::json, after_source, after_key, after_stamp
from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::bytea[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[])
       as e (source, id, key, type, version, data, content_type, attributes,
             after_source, after_key, after_stamp);

-- name: quiet
-- From now on in this transaction, oncebox.emit writes nothing ($1: 'on'), or writes ('off').
select set_config('oncebox.quiet', $1, true);

-- name: sources
select name from oncebox.source order by name;

-- name: identity
-- Changes when the database is restored, copied, or its server fails over.
select concat_ws('/', (select system_identifier from pg_control_system()),
                 left(pg_walfile_name(pg_current_wal_lsn()), 8),
                 (select oid from pg_database where datname = current_database()),
                 'oncebox.chain'::regclass::oid);

-- name: peek
-- Whether there is something to read: above position $1, or in the holes $2, a JSON array of
-- [first, last].
select exists (select from oncebox.chain where position > $1::bigint)
    or exists (select from json_array_elements($2::json) hole, oncebox.chain c
               where c.position between (hole ->> 0)::bigint and (hole ->> 1)::bigint);

-- name: move
-- The relay $1 of place $2 under term $3 has position $4, read under identity $5, its lease runs
-- on for $6 ms. No row: the term is another's.
-- What is read next is published, so it has to be durable: the commit of this transaction, which
-- writes this row, flushes all commits that it has seen, unless that is switched off. The plan of
-- `read` shall not depend on statistics, which are missing or old for a table that grows.
update oncebox.cursor set
  position = $4, identity = $5,
  lease_until = (extract(epoch from clock_timestamp()) * 1000)::bigint + $6
where reader = $1 and topic = $2 and partition = 0 and term = $3
returning set_config('synchronous_commit',
                     case current_setting('synchronous_commit') when 'off' then 'on'
                     else current_setting('synchronous_commit') end, true),
          set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);

-- name: read
-- Events in the order of their positions: those above $1 and those in the holes $2 (as in peek),
-- at most $3, of at most $4 bytes together but for a first one; only the place where the source does
-- not begin with $5, or the event is gone.
select c.position, c.n, s.name, e.key, c.sequence, c.stamp, c.previous, c.after_stamp,
  e.id::text, e.type, e.version::int, e.content_type, e.attributes::text,
  e.after_source, e.after_key, e.data
from (
  select *, sum(size) over (order by position rows unbounded preceding) as total
  from (
    select * from (
      select h.* from json_array_elements($2::json) hole cross join lateral (
        select * from oncebox.chain
        where position between (hole ->> 0)::bigint and (hole ->> 1)::bigint
        order by position limit $3) h
      union all
      (select * from oncebox.chain where position > $1::bigint order by position limit $3)
    ) both_kinds order by position limit $3
  ) batch
) c join oncebox.source s on s.id = c.source_id left join lateral (
  select * from oncebox.event where n = c.n and starts_with(s.name, $5) offset 0
) e on true
where c.total <= $4 or c.total = c.size
order by c.position;

-- name: links
-- Where the events of a source's key are, from number $3 on to its last one: position, chain, id,
-- whether void. From the last one back; what retention has dropped ends it.
with recursive back as (
  select c.* from oncebox.counter k join oncebox.chain c on c.position = k.position
  where k.source_id = (select id from oncebox.source where name = $1) and k.key = $2
  union all
  select p.* from back b cross join lateral (
    select * from oncebox.chain where position = b.before offset 0) p
  where b.sequence > $3::bigint
)
select c.position, c.sequence, c.stamp, c.previous, e.id::text, e.data is null
from back c cross join lateral (
  select id, data from oncebox.event where n = c.n offset 0) e
where c.sequence >= $3::bigint
order by c.sequence;

-- name: numbering
-- The transactions that have drawn a position and not ended: nextval locks the sequence before it
-- draws, until its transaction ends, also a prepared one. A name may come again, which costs time
-- only. Then a text that stays the same for as long as the transaction runs nothing; null: it may
-- be running, or this role may not see it (grant pg_read_all_stats). And the last position drawn.
select distinct l.virtualtransaction,
  case when l.pid is null then 'prepared'
       when a.state like 'idle in transaction%' then a.state_change::text end,
  (select last_value from oncebox.chain_position)
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.relation = 'oncebox.chain_position'::regclass
  and l.database = (select oid from pg_database where datname = current_database())
  and l.mode = 'RowExclusiveLock' and l.granted and l.pid is distinct from pg_backend_pid();

-- name: refused
-- Keys of sources that begin with $1 whose next event the log did not take.
select source, key, position, sequence, attempts, permanent, retry_at, reason
from oncebox.refused where starts_with(source, $1) order by position;

-- name: refuse
insert into oncebox.refused
  (source, key, position, sequence, attempts, permanent, retry_at, reason)
values ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: forget_refusal
delete from oncebox.refused where position = $1;

-- name: retry_refused
update oncebox.refused set retry_at = 0 where position = $1;

-- name: void
update oncebox.event set data = null, attributes = null where n = $1;

-- name: backlog
-- Events above position $1, nearly: numbers that were rolled back count too. And the stamp of the
-- first of them.
select (select case when is_called then last_value else 0 end from oncebox.chain_position)
         - $1::bigint,
       (select stamp from oncebox.chain where position > $1::bigint order by position limit 1);

-- name: maintain
-- Of the table $1 ('event' or 'chain'): drop what is older than $2 seconds and needed by no relay,
-- keep room for $3 events ahead; wait $4 ms at most for a lock. A row for each thing done.
select unnest(oncebox.maintain($1, $2, $3, $4));
