-- For tests: the clock, and places where a process waits for the test.

CREATE FUNCTION underway.set_clock(now timestamptz) RETURNS timestamptz LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_set_clock';
COMMENT ON FUNCTION underway.set_clock IS
'For tests, superuser only: moves the clock that all queues of the cluster go by, and wakes everybody. It goes on from there; NULL goes back to the real time. Lost at a restart of the server.
Returns the time it is now. Errors: 42501 not a superuser, 22023 an infinite time.';

CREATE FUNCTION underway_internal.arm_waitpoints(mask bigint) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_arm_waitpoints';
