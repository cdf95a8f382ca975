-- What is forgotten: see prune.py for what may be.

-- name: raise_floors
-- ?1 consumer, ?2 the floor; nothing if records were lost unread, or a rebuild began, after ?3 (Unix
-- ms). Not above ?4 ms ago by the database's clock: the caller's may have jumped ahead.
-- Not while events of a key without a row wait: the floor says which of them is its first.
-- Not above what another key waits for: then the wait would count as over.
UPDATE oncebox_subscription AS s SET floor = max(floor, min(?2,
  (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - ?4) * 1024000, coalesce(
  (SELECT min(e.after_stamp) FROM oncebox_kept e WHERE e.after_subscription = s.id), ?2)))
WHERE consumer = ?1 AND source <> '' AND source NOT LIKE '%#claim'
  AND NOT EXISTS (
    SELECT 1 FROM oncebox_key k INDEXED BY oncebox_key_held
    WHERE k.subscription = s.id AND k.sequence < 0 AND k.kept > 0
      AND NOT (s.source LIKE '%#id' AND k.park IS NOT NULL))  -- it stands for itself
  AND NOT EXISTS (
    SELECT 1 FROM oncebox_journal j WHERE j.consumer = ?1 AND j.source = ''
      AND j.what IN ('truncated', 'rebuild') AND j.at_ms > ?3);

-- name: key_page
-- The key that ends a page of ?3 keys behind ?2; no row: fewer are left.
SELECT key FROM oncebox_key WHERE subscription = ?1 AND key > ?2 ORDER BY key LIMIT 1 OFFSET ?3 - 1;

-- name: prune_keys
-- Rows: keys of subscription ?1 behind ?2, up to ?3 if it is not null, that were forgotten: done
-- before the floor, and nothing waits there.
DELETE FROM oncebox_key
WHERE subscription = ?1 AND key > ?2 AND (?3 IS NULL OR key <= ?3)
  AND park IS NULL AND kept = 0 AND due_ms IS NULL
  AND max(stamp, cutoff - 1, had) < (SELECT s.floor FROM oncebox_subscription s WHERE s.id = ?1)
  AND NOT EXISTS (SELECT 1 FROM oncebox_kept e
                  WHERE e.after_subscription = oncebox_key.subscription
                    AND e.after_key = oncebox_key.key)
RETURNING key;

-- name: prune_effects
-- Effects begun before ?2, at most ?3, but none of an event that still waits.
DELETE FROM oncebox_effect WHERE (consumer, source, id, step) IN (
  SELECT f.consumer, f.source, f.id, f.step FROM oncebox_effect f
  WHERE f.consumer = ?1 AND f.begun_ms < ?2 AND NOT EXISTS (
    SELECT 1 FROM oncebox_kept e JOIN oncebox_subscription s ON s.id = e.subscription
    WHERE s.consumer = ?1 AND e.id = f.id)
  ORDER BY f.begun_ms LIMIT ?3)
RETURNING id;

-- name: prune_journal
-- Notes before ?2, at most ?3, but none that say what is to be done with events that come again.
DELETE FROM oncebox_journal WHERE n IN (
  SELECT n FROM oncebox_journal
  WHERE consumer = ?1 AND at_ms < ?2 AND what NOT IN ('orphaned', 'adopted', 'truncated', 'rebuild')
  ORDER BY n LIMIT ?3)
RETURNING n;

-- name: prune_quarantine
-- Unreadable records that came before ?2, at most ?3.
delete from oncebox_quarantine where n in (
  select n from oncebox_quarantine where consumer = ?1 and at_ms < ?2 order by n limit ?3)
returning n;

-- name: lock_limit
-- Nothing to set: there is one writer.
SELECT ?1;

-- name: raise_claim_floors
-- ?1 consumer, ?2 source or null for all, ?3 floor, never one in the future. Rows: subscriptions.
UPDATE oncebox_subscription SET floor = max(floor, min(?3,
  CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1024000))
WHERE consumer = ?1 AND source LIKE '%#claim' AND (?2 IS NULL OR source = ?2)
RETURNING id;

-- name: claim_page
SELECT id FROM oncebox_inbox WHERE subscription = ?1 AND id > ?2 ORDER BY id LIMIT 1 OFFSET ?3 - 1;

-- name: prune_claims
-- As prune_keys; only after raise_claim_floors has committed.
DELETE FROM oncebox_inbox
WHERE subscription = ?1 AND id > ?2 AND (?3 IS NULL OR id <= ?3)
  AND stamp < (SELECT s.floor FROM oncebox_subscription s WHERE s.id = ?1)
RETURNING id;
