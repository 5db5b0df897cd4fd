-- The two schemas: `underway` is what users call, `underway_internal` is storage and state changes, for nobody.
-- Plain CREATE SCHEMA on purpose: a schema of that name that somebody else made is refused, never adopted.
CREATE SCHEMA underway;
CREATE SCHEMA underway_internal;

COMMENT ON SCHEMA underway IS 'underway: durable task queues that run inside the server';
COMMENT ON SCHEMA underway_internal IS 'underway: storage and state changes; not an interface';

CREATE FUNCTION underway_internal.library_version() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_library_version';

-- Raises, with the line to put into postgresql.conf, unless the library was loaded at server start.
SELECT underway_internal.library_version();
