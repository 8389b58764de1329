-- What finished jobs published, and the models that jobs read.
CREATE TABLE artifact (
    tenant_id TEXT NOT NULL,
    job_row INTEGER NOT NULL REFERENCES job (row) ON DELETE CASCADE,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job_row, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_by_sha256 ON artifact (sha256);

CREATE TABLE model (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    folder TEXT NOT NULL,
    inventory TEXT,
    created_at_ms INTEGER NOT NULL,
    UNIQUE (tenant_id, name)
) STRICT;
