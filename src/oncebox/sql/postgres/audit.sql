-- What the audit reads beside what others read: pages in order, and nothing is locked.

-- name: audit_store
-- The same for all who come to this database.
select concat_ws('/', pg_postmaster_start_time(), current_database(), 'oncebox.chain'::regclass::oid);

-- name: audit_extent
-- The stamp of the oldest event, or 0 where retention has dropped none, and the last position.
select case
    when (select count(*) from oncebox.partition where lower = 0) = 2 then 0
    else (select c.stamp from oncebox.chain c where c.n >= (select min(n) from oncebox.event)
          order by c.position limit 1) end,
  (select max(position) from oncebox.chain);

-- name: audit_since
-- Behind which position all events from stamp $1 on are.
select coalesce(min(position) - 1, (select max(position) from oncebox.chain), 0) from oncebox.chain where stamp >= $1;

-- name: audit_counters
-- A page of $3 counters of the source $1 behind the key $2.
select key, sequence, stamp, position from oncebox.counter
where source_id = (select id from oncebox.source where name = $1) and key > $2
order by key limit $3;

-- name: audit_keys
-- A page of $3 keys of subscription $1 behind the key $2.
-- At last, why its payload cannot be read, if that is what it waits for.
select key, sequence, stamp, id, digest, cutoff, park, skipped, kept,
  case when park = 'poison' and kept > 0 and reason ~ '^(DecodeFailed|UnknownSchema):' then reason end
from oncebox.key where subscription = $1 and key > $2 order by key limit $3;

-- name: audit_kept
-- What is kept of the key $2 of subscription $1.
select sequence, stamp, previous, id, digest, void from oncebox.kept
where subscription = $1 and key = $2 order by sequence, stamp;

-- name: audit_window
-- Which numbers of events are at positions above $1, up to $2.
select min(n), max(n) from oncebox.chain where position > $1 and position <= $2;

-- name: audit_sums
-- What is at positions above $1 up to $2, with n from $3 to $4, added up by source (its place among
-- the [name, stamp] of the JSON array $5) and key: how many there are, the first number and the stamp
-- before it, and all `mark`s (facts.py, with the seed $8), joined. Only what is within what both sides
-- cover: from that stamp on, below stamp $6 and position $7. Under no key there is what is not, or has
-- none: how many, and the first position.
select i, key, count(*), case when key is null then min(position) else min(sequence) end, min(previous),
  bit_xor(('x' || encode(substr(hash, 1, 8), 'hex'))::bit(64)::bigint)
from (
  select i, key, position, sequence, previous, case when key is not null then
    sha256(convert_to(concat($8::text, sequence, ':', stamp, ':', previous, ':', id, ':',
                             case when data is not null then concat(type, ':', form, ':') end), 'UTF8')
           || coalesce(data, '')) end as hash
  from (
    select s.i, c.position, c.sequence, c.previous, c.stamp, e.id, e.type, e.data,
      concat(e.version, ' ', nullif(e.content_type, 'application/json'),
        case when c.after_stamp is not null
          then concat(' ', c.after_stamp, ':', e.after_source, ':', e.after_key) end) as form,
      case when c.stamp >= s.start and c.stamp < $6 and c.position < $7 then e.key end as key
    from oncebox.chain c
      join (select s.id, (j.i - 1)::int as i, (j.value ->> 1)::bigint as start
            from json_array_elements($5::json) with ordinality j (value, i)
              join oncebox.source s on s.name = j.value ->> 0) s
        on s.id = c.source_id
      join oncebox.event e on e.n = c.n
    where c.position > $1 and c.position <= $2 and e.n between $3 and $4
    offset 0
  ) events
  offset 0
) marked
group by i, key;

-- name: audit_ids
-- Events at positions above $1 whose id another one has, by source and id: of $2 ids at most.
select e.source, e.id::text, e.key, c.sequence, c.stamp, c.position
from oncebox.event e join oncebox.chain c on c.n = e.n
where e.id in (
  select id from oncebox.event where n >= (select min(n) from oncebox.chain where position > $1)
  group by id having count(*) > 1 limit $2)
order by e.source, e.id, c.position;

-- name: audit_rows
-- Of the events above position $1, at most $2, of at most $3 bytes together but for a first one: those
-- of the keys in the JSON array $4 (null: all), and whatever `audit_sums` has under no key ($5, as a JSON
-- object, to $7).
-- The last one always, so that it is seen how far this is.
with batch as (
  select * from (
    select *, sum(size) over (order by position rows unbounded preceding) as total
    from (select * from oncebox.chain where position > $1 order by position limit $2) following
  ) sized where total <= $3 or total = size
)
select c.position, s.name, e.key, c.sequence, c.stamp, c.previous, e.id::text, e.type,
  concat(e.version, ' ', nullif(e.content_type, 'application/json'),
    case when c.after_stamp is not null
      then concat(' ', c.after_stamp, ':', e.after_source, ':', e.after_key) end),
  e.data
from batch c
  join oncebox.source s on s.id = c.source_id
  left join lateral (
    select * from oncebox.event
    where n = c.n and ($4::text is null or c.sequence is null or c.stamp >= $6 or c.position >= $7
      or c.stamp < ($5::json ->> s.name)::bigint
      or key in (select json_array_elements_text($4::json)))
    offset 0
  ) e on true
where e.n is not null or c.position = (select max(position) from batch)
order by c.position;
