-- What the audit reads beside what others read: pages in order, and nothing is locked.

-- name: audit_extent
-- The stamp of the oldest event, or 0 where retention has dropped none, and the last position.
select case
    when (select count(*) from oncebox.partition where lower = 0) = 2 then 0
    else (select c.stamp from oncebox.chain c where c.n >= (select min(n) from oncebox.event)
          order by c.position limit 1) end,
  (select max(position) from oncebox.chain);

-- name: audit_counters
-- A page of $3 counters of the source $1 behind the key $2.
select key, sequence, stamp from oncebox.counter
where source_id = (select id from oncebox.source where name = $1) and key > $2
order by key limit $3;

-- name: audit_keys
-- A page of $3 keys of subscription $1 behind the key $2.
select key, sequence, stamp, id, digest, cutoff, park, skipped, kept from oncebox.key
where subscription = $1 and key > $2 order by key limit $3;

-- name: audit_kept
-- What is kept of the key $2 of subscription $1.
select sequence, stamp, previous, id, digest, void from oncebox.kept
where subscription = $1 and key = $2 order by sequence, stamp;
