-- A store of schema 1 as its first version wrote it: two keys, one deleted, a data plane with a row.
CREATE TABLE meta(k TEXT PRIMARY KEY, v ANY) STRICT;
CREATE TABLE log(rev INTEGER NOT NULL, sub INTEGER NOT NULL, key BLOB NOT NULL, create_rev INTEGER NOT NULL,
  prev_rev INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL, del INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY(rev, sub)) STRICT, WITHOUT ROWID;
CREATE INDEX log_key ON log(key, rev);
CREATE TABLE head(key BLOB PRIMARY KEY, mod_rev INTEGER NOT NULL, create_rev INTEGER NOT NULL,
  version INTEGER NOT NULL, lease INTEGER NOT NULL, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX head_lease ON head(lease, key) WHERE lease <> 0;
CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT;
CREATE TABLE dp(id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, tombstone_floor INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE res(dp INTEGER NOT NULL REFERENCES dp(id) ON DELETE CASCADE, rev INTEGER NOT NULL, uid TEXT NOT NULL,
  name TEXT NOT NULL, del INTEGER NOT NULL, update_bytes BLOB NOT NULL, PRIMARY KEY(dp, rev, uid)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX res_uid ON res(dp, uid);
INSERT INTO meta(k, v) VALUES ('schema', 1), ('epoch', x'000102030405060708090a0b0c0d0e0f'), ('rev', 5),
  ('compact_rev', 1), ('last_lease', 0), ('clean', 1);
INSERT INTO log(rev, sub, key, create_rev, prev_rev, version, lease, del, value) VALUES
  (2, 0, x'61', 2, 0, 1, 0, 0, x'31'), (3, 0, x'62', 3, 0, 1, 0, 0, x'32'), (4, 0, x'61', 2, 2, 2, 0, 0, x'33'),
  (5, 0, x'62', 0, 3, 0, 0, 1, x'');
INSERT INTO head(key, mod_rev, create_rev, version, lease, value) VALUES (x'61', 4, 2, 2, 0, x'33');
INSERT INTO dp(id, uid, tombstone_floor) VALUES (1, 'dp-1', 0);
INSERT INTO res(dp, rev, uid, name, del, update_bytes) VALUES (1, 4, 'uid-1', 'tenants/acme', 0, x'0a0b');
