-- What is forgotten: see prune.py for what may be.

-- name: raise_floors
-- $1 consumer, $2 the floor; nothing if records were lost unread, or a rebuild began, after $3 (Unix
-- ms). Not above $4 ms ago by the database's clock: the caller's may have jumped ahead.
-- Not while events of a key without a row wait: the floor says which of them is its first.
-- Not above what another key waits for: then the wait would count as over.
update oncebox.subscription s set floor = greatest(s.floor, least($2::bigint,
  ((extract(epoch from clock_timestamp()) * 1000)::bigint - $4::bigint) * 1024000,
  (select min(e.after_stamp) from oncebox.kept e where e.after_subscription = s.id)))
where s.consumer = $1 and s.source <> '' and s.source not like '%#claim'
  and not exists (
    select from oncebox.key k where k.subscription = s.id and k.sequence < 0 and k.kept > 0
      and not (s.source like '%#id' and k.park is not null))  -- it stands for itself
  and not exists (
    select from oncebox.journal j where j.consumer = $1 and j.source = ''
      and j.what in ('truncated', 'rebuild') and j.at_ms > $3);

-- name: key_page
-- The key that ends a page of $3 keys behind $2; no row: fewer are left.
select key from oncebox.key where subscription = $1 and key > $2 order by key offset $3 - 1 limit 1;

-- name: prune_keys
-- Rows: keys of subscription $1 behind $2, up to $3 if it is not null, that were forgotten: done
-- before the floor, and nothing waits there. Keys that a batch has locked are left alone.
delete from oncebox.key where (subscription, key) in (
  select k.subscription, k.key from oncebox.key k join oncebox.subscription s on s.id = $1
  where k.subscription = $1 and k.key > $2 and ($3::text is null or k.key <= $3)
    and k.stamp < s.floor and k.cutoff <= s.floor and k.had < s.floor
    and k.park is null and k.kept = 0 and k.due_ms is null
    and not exists (select from oncebox.kept e
                    where e.after_subscription = k.subscription and e.after_key = k.key)
  for update of k skip locked)
returning key;

-- name: prune_effects
-- Effects begun before $2, at most $3, but none of an event that still waits.
delete from oncebox.effect where (consumer, source, id, step) in (
  select f.consumer, f.source, f.id, f.step from oncebox.effect f
  where f.consumer = $1 and f.begun_ms < $2 and not exists (
    select from oncebox.kept e join oncebox.subscription s on s.id = e.subscription
    where s.consumer = $1 and e.id = f.id)
  order by f.begun_ms limit $3)
returning id;

-- name: prune_journal
-- Notes before $2, at most $3, but none that say what is to be done with events that come again.
delete from oncebox.journal where n in (
  select n from oncebox.journal
  where consumer = $1 and at_ms < $2 and what not in ('orphaned', 'adopted', 'truncated', 'rebuild')
  order by n limit $3)
returning n;

-- name: prune_quarantine
-- Unreadable records that came before $2, at most $3.
delete from oncebox.quarantine where n in (
  select n from oncebox.quarantine where consumer = $1 and at_ms < $2 order by n limit $3)
returning n;

-- name: lock_limit
select set_config('lock_timeout', $1, true);

-- name: raise_claim_floors
-- $1 consumer, $2 source or null for all, $3 floor, never one in the future. Rows: subscriptions.
update oncebox.subscription set floor = greatest(floor, least($3::bigint,
  (extract(epoch from clock_timestamp()) * 1000000)::bigint * 1024))
where consumer = $1 and source like '%#claim' and ($2::text is null or source = $2)
returning id;

-- name: claim_page
select id from oncebox.inbox where subscription = $1 and id > $2 order by id offset $3 - 1 limit 1;

-- name: prune_claims
-- As prune_keys; only after raise_claim_floors has committed.
delete from oncebox.inbox i
where i.subscription = $1 and i.id > $2 and ($3::text is null or i.id <= $3)
  and i.stamp < (select s.floor from oncebox.subscription s where s.id = $1)
returning i.id;
