-- A Pythia queue file, version 1. Times are seconds: due, first_seen, published, dead_at, expires since the epoch; lease_until
-- since the boot of the machine. PRAGMA application_id and user_version are set beside this.

CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,           -- 0 ready, 1 delayed, 2 leased, 3 blocked behind an older one of its ordering key
    rank INTEGER NOT NULL,            -- the priority, 0 without one
    due REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    deliveries INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0, -- one more with every claim: an old owner's write finds no row
    owner INTEGER,                    -- consumers.id
    lease_until REAL,
    first_seen REAL NOT NULL,
    id TEXT NOT NULL,
    ordering_key TEXT,
    priority INTEGER,
    published REAL,
    headers TEXT,
    content_type TEXT NOT NULL,
    content_encoding TEXT,
    correlation_id TEXT,
    reply_to TEXT,
    idempotency_key TEXT,
    body BLOB NOT NULL
);

-- One partial index for each state, so that a million rows in one state cost the others nothing.
CREATE INDEX messages_ready ON messages (queue, rank DESC, seq) WHERE state = 0;
CREATE INDEX messages_delayed ON messages (due) WHERE state = 1;
CREATE INDEX messages_leased ON messages (lease_until) WHERE state = 2;
CREATE INDEX messages_keyed ON messages (queue, ordering_key, seq) WHERE ordering_key IS NOT NULL;
-- One row of an ordering key is ready, delayed or leased; all younger ones are blocked. The file itself holds to that.
CREATE UNIQUE INDEX messages_one_per_key ON messages (queue, ordering_key) WHERE ordering_key IS NOT NULL AND state <> 3;

CREATE TABLE queues (name TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again, so that it names one incarnation
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot TEXT NOT NULL,
    lease_until REAL NOT NULL
);

CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,               -- the message's id; made unique when one id died twice
    reason TEXT,
    detail TEXT,
    attempts INTEGER,
    error_type TEXT,
    error_message TEXT,
    traceback TEXT,
    worker TEXT,
    worker_id TEXT,
    dead_at REAL NOT NULL,
    first_seen REAL NOT NULL,
    id TEXT NOT NULL,
    ordering_key TEXT,
    priority INTEGER,
    published REAL,
    headers TEXT,
    content_type TEXT NOT NULL,
    content_encoding TEXT,
    correlation_id TEXT,
    reply_to TEXT,
    idempotency_key TEXT,
    body BLOB NOT NULL
);

CREATE UNIQUE INDEX dead_letters_name ON dead_letters (queue, name);
CREATE INDEX dead_letters_queue ON dead_letters (queue, seq);

CREATE TABLE effects (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    done INTEGER NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;

CREATE INDEX effects_expires ON effects (expires);
