-- A lease that runs on for more than ten times its length was given before the clock was set back:
-- it has expired.

-- name: add_cursor
-- `on conflict` would wait for whoever has that row in a batch, for ever if he stands still.
insert into oncebox.cursor (reader, topic, partition)
select $1::text, $2::text, $3::int
where not exists (select from oncebox.cursor where reader = $1 and topic = $2 and partition = $3)
on conflict do nothing;

-- name: acquire
-- Free, expired or ours: take it. Dying at the same position as the owner before counts up.
update oncebox.cursor set
  term = term + 1, holder = $4,
  takeovers = case when holder is null or holder = $4 then 0 else takeovers + 1 end,
  lease_until = (extract(epoch from clock_timestamp()) * 1000)::bigint + $5
where (reader, topic, partition) in (
  select reader, topic, partition from oncebox.cursor
  where reader = $1 and topic = $2 and partition = $3
    and (holder is null or holder = $4
         or lease_until - (extract(epoch from clock_timestamp()) * 1000)::bigint not between 0 and 10 * $5)
  for update skip locked)                     -- locked: its owner is in a batch, so it lives
returning term, position, identity, takeovers, suspect;

-- name: end_stuck
-- Ends the connection that has this cursor locked, in a transaction of more than $4 ms, though its
-- lease ran out as long ago. PostgreSQL's own limit of idle time does not hold inside a pipeline:
-- to the server, the next statement is on its way. But none that works: a rebuild may clear for long.
-- Only of our own role, which needs no right.
select pg_terminate_backend(a.pid)
from oncebox.cursor c join pg_stat_activity a on a.backend_xid = c.xmax
where c.reader = $1 and c.topic = $2 and c.partition = $3
  and c.lease_until < (extract(epoch from clock_timestamp()) * 1000)::bigint - $4::bigint
  and a.xact_start < clock_timestamp() - $4::bigint * interval '1 millisecond'
  and a.wait_event_type = 'Client'
  and a.datname = current_database() and a.usename = current_user and a.pid <> pg_backend_pid();

-- name: renew
-- Rows: the partitions that are still ours, whose lease now runs on.
update oncebox.cursor set
  lease_until = (extract(epoch from clock_timestamp()) * 1000)::bigint + $3
where reader = $1 and holder = $2
returning topic, partition, term;

-- name: release
update oncebox.cursor set holder = null, lease_until = 0, takeovers = 0
where reader = $1 and topic = $2 and partition = $3 and holder = $4 and term = $5;

-- name: heartbeat
insert into oncebox.member as m (reader, holder, lease_until)
values ($1, $2, (extract(epoch from clock_timestamp()) * 1000)::bigint + $3)
on conflict (reader, holder) do update set lease_until = excluded.lease_until;

-- name: leave
delete from oncebox.member where reader = $1
  and (holder = $2 or lease_until < (extract(epoch from clock_timestamp()) * 1000)::bigint - $3);

-- name: members
-- Who lives, where leases last $2 ms.
select holder from oncebox.member
where reader = $1 and lease_until - (extract(epoch from clock_timestamp()) * 1000)::bigint between 0 and 10 * $2
order by holder;

-- name: cursors
-- Rows: topic, partition, holder or null when free or expired, milliseconds of lease left, where
-- leases last $2 ms.
select topic, partition,
  case when lease_until - (extract(epoch from clock_timestamp()) * 1000)::bigint
    between 0 and 10 * $2 then holder end,
  lease_until - (extract(epoch from clock_timestamp()) * 1000)::bigint
from oncebox.cursor where reader = $1 order by topic, partition;
