-- A lease that runs on for more than ten times its length was given before the clock was set back:
-- it has expired.

-- name: add_cursor
insert into oncebox_cursor (reader, topic, partition) values (?1, ?2, ?3) on conflict do nothing;

-- name: acquire
-- Free, expired or ours: take it. Dying at the same position as the owner before counts up.
update oncebox_cursor set
  term = term + 1, holder = ?4,
  takeovers = case when holder is null or holder = ?4 then 0 else takeovers + 1 end,
  lease_until = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + ?5
where reader = ?1 and topic = ?2 and partition = ?3
  and (holder is null or holder = ?4
       or lease_until - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) not between 0 and 10 * ?5)
returning term, position, identity, takeovers, suspect;

-- name: end_stuck
-- A writer that stands still stops all others: nothing of ours could end it.
select 1 from oncebox_cursor where reader = ?1 and topic = ?2 and partition = ?3 and ?4 < 0;

-- name: renew
-- Rows: the partitions that are still ours, whose lease now runs on.
update oncebox_cursor set
  lease_until = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + ?3
where reader = ?1 and holder = ?2
returning topic, partition, term;

-- name: release
update oncebox_cursor set holder = null, lease_until = 0, takeovers = 0
where reader = ?1 and topic = ?2 and partition = ?3 and holder = ?4 and term = ?5;

-- name: heartbeat
insert into oncebox_member (reader, holder, lease_until)
values (?1, ?2, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + ?3)
on conflict (reader, holder) do update set lease_until = excluded.lease_until;

-- name: leave
delete from oncebox_member where reader = ?1
  and (holder = ?2 or lease_until < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - ?3);

-- name: members
-- Who lives, where leases last ?2 ms.
select holder from oncebox_member
where reader = ?1 and lease_until - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) between 0 and 10 * ?2
order by holder;

-- name: cursors
-- Rows: topic, partition, holder or null when free or expired, milliseconds of lease left, where
-- leases last ?2 ms.
select topic, partition,
  case when lease_until - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    between 0 and 10 * ?2 then holder end,
  lease_until - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
from oncebox_cursor where reader = ?1 order by topic, partition;
