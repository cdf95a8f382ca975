-- name: claim
-- ?1 consumer, ?2 source, ?3 id, ?4 the id's own time as a stamp, null when not known.
-- Rows: one if the claim was made; none if the id was done, the subscription is not there, or the
-- id is below its floor. The stamp is never below the id's own time: so whatever is pruned below
-- a floor was made below it too.
INSERT INTO oncebox_inbox (subscription, id, stamp)
SELECT s.id, ?3,
  max(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1024000, coalesce(?4, 0))
FROM oncebox_subscription s
WHERE s.consumer = ?1 AND s.source = ?2 AND (s.floor = 0 OR ?4 >= s.floor)
ON CONFLICT (subscription, id) DO NOTHING
RETURNING 1;

-- name: claim_state
-- Rows: the floor, and whether the id was done.
SELECT s.floor,
  EXISTS (SELECT 1 FROM oncebox_inbox i WHERE i.subscription = s.id AND i.id = ?3)
FROM oncebox_subscription s WHERE s.consumer = ?1 AND s.source = ?2;
