-- Complete: the last act of the executing transaction, and its fence. The handler's effects, the outputs and the ends
-- of the tasks commit together or not at all (promise 2).

-- Moves tasks that are in progress, as these attempts, to the archive, or drops them if succeeded ones are not kept (src/archive.cpp,
-- which background workers call without SQL). Returns those that were.
CREATE FUNCTION underway_internal.complete_tasks(kept bool, ids uuid[], attempts int[], outputs jsonb[]) RETURNS uuid[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_complete_tasks';
