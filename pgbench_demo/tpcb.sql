\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
SELECT oncebox.emit('/bank/accounts', 'account.moved', aid::text, jsonb_build_object('aid', aid, 'delta', :delta::int, 'balance', abalance)) FROM pgbench_accounts WHERE aid = :aid;
SELECT oncebox.emit('/bank/tellers', 'teller.moved', tid::text, jsonb_build_object('tid', tid, 'delta', :delta::int, 'balance', tbalance)) FROM pgbench_tellers WHERE tid = :tid;
SELECT oncebox.emit('/bank/branches', 'branch.moved', bid::text, jsonb_build_object('bid', bid, 'delta', :delta::int, 'balance', bbalance)) FROM pgbench_branches WHERE bid = :bid;
END;
