-- Loads the files from the client's side and enqueues a task for each, in one transaction.
BEGIN;
\copy demo.file FROM PROGRAM 'test/demo/files'
SELECT count(underway.enqueue('copyright', jsonb_build_object('package', package))) FROM demo.file;
COMMIT;
