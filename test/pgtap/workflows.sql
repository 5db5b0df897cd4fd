-- As an application would test a workflow of its own: no worker, no commit, and no waiting for what sleeps.
BEGIN;
SELECT plan(5);

CREATE TABLE account (name text PRIMARY KEY, greeted bool NOT NULL DEFAULT false, reminded bool NOT NULL DEFAULT false);
CREATE FUNCTION greet(input jsonb) RETURNS void LANGUAGE sql AS $$
    UPDATE account SET greeted = true WHERE name = input ->> 'name' $$;
CREATE FUNCTION remind(input jsonb) RETURNS void LANGUAGE sql AS $$
    UPDATE account SET reminded = true WHERE name = input ->> 'name' $$;
SELECT underway.create_workflow('signup', ARRAY[
    underway.step('greet', 'greet'),
    underway.wait('confirmed', timeout => '3 days', on_timeout => 'continue'),
    underway.step('remind', 'remind', input => '"$run"', run_if => '!exists($steps.confirmed)')]);

INSERT INTO account VALUES ('ann'), ('bob');
SELECT underway.start('signup', '{"name": "ann"}', key => 'ann'), underway.start('signup', '{"name": "bob"}', key => 'bob');
SELECT underway.signal(underway.find_run('signup', 'ann'), 'confirmed', '{"by": "mail"}');
SELECT lives_ok('SELECT * FROM underway.run_inline()', 'both runs go to their end');

SELECT is((SELECT string_agg(state, ',') FROM underway.runs WHERE workflow = 'signup'), 'succeeded,succeeded', 'both have succeeded');
SELECT is((SELECT bool_and(greeted) FROM account), true, 'both were greeted');
SELECT is((SELECT reminded FROM account WHERE name = 'ann'), false, 'who has confirmed is not reminded');
SELECT is((SELECT reminded FROM account WHERE name = 'bob'), true, 'who has not is, three days later');

SELECT * FROM finish();
ROLLBACK;
