-- name: claim
-- $1 consumer, $2 source, $3 id, $4 the id's own time as a stamp, null when not known.
-- Rows: one if the claim was made; none if the id was done, the subscription is not there, or the
-- id is below its floor. The stamp is never below the id's own time: so whatever is pruned below
-- a floor was made below it too. The row lock is for pruning: it waits for claims that have read
-- the floor, and claims that wait for it read the floor again.
insert into oncebox.inbox (subscription, id, stamp)
select s.id, $3,
  greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint * 1024, $4::bigint)
from oncebox.subscription s
where s.consumer = $1 and s.source = $2 and (s.floor = 0 or $4::bigint >= s.floor)
for share of s
on conflict (subscription, id) do nothing
returning 1;

-- name: claim_state
-- Rows: the floor, and whether the id was done.
select s.floor,
  exists (select from oncebox.inbox i where i.subscription = s.id and i.id = $3)
from oncebox.subscription s where s.consumer = $1 and s.source = $2;
