-- Jobs and their append-only log.
-- Times are Unix milliseconds, 0: not yet. A job is live while finished_at_ms is 0.
CREATE TABLE job (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    type TEXT NOT NULL,
    method TEXT,
    name TEXT,
    state TEXT NOT NULL CHECK (state IN ('validating', 'queued', 'running', 'paused', 'cancelling', 'succeeded',
                                         'failed', 'cancelled')),
    stage TEXT,
    status_reason TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL,
    crash_count INTEGER NOT NULL,
    retry_count INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    queued_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    run_at_ms INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    version INTEGER NOT NULL,
    revision TEXT,
    idempotency_key TEXT,
    request_sha256 TEXT,
    spec TEXT NOT NULL,
    plan TEXT,
    steps TEXT,
    result TEXT,
    error TEXT,
    files TEXT
) STRICT;
CREATE UNIQUE INDEX job_by_idempotency_key ON job (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX job_by_tenant ON job (tenant_id, row);
CREATE INDEX job_runnable ON job (priority DESC, row, run_at_ms, memory_bytes) WHERE state = 'queued';
CREATE INDEX job_live ON job (row) WHERE finished_at_ms = 0;
CREATE INDEX job_finished ON job (finished_at_ms, row, state) WHERE finished_at_ms > 0;

CREATE TABLE job_event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    job_row INTEGER NOT NULL REFERENCES job (row) ON DELETE CASCADE,
    created_at_ms INTEGER NOT NULL,
    level TEXT NOT NULL,
    type TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT
) STRICT;
CREATE INDEX job_event_by_job ON job_event (job_row, seq);
CREATE TRIGGER job_event_is_append_only BEFORE UPDATE ON job_event
BEGIN
    SELECT raise(ABORT, 'job_event is append-only');
END;
