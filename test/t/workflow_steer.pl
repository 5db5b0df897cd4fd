# What is asked of runs while nobody can do it, or while who does it dies: it is done later, once. Deadlines find a coordinator that has left.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $point = 11;    # the row of a run says what was asked, and nothing has followed
my $node = start_server('workflow_steer', extension => 1, conf => <<'END');
underway.max_workers = 2
underway.min_workers = 0
underway.worker_idle_timeout = '1s'
autovacuum = off
END
sql($node, 'postgres', <<'END');
CREATE TABLE effect (step text, run uuid);
CREATE FUNCTION act(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect VALUES ('act', underway.run_id()) $$;
CREATE FUNCTION undo(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect VALUES ('undo', underway.run_id()) $$;
SELECT underway.create_workflow('w', ARRAY[underway.step('a', 'act', undo => 'undo'), underway.wait('s'), underway.step('b', 'act')]);
END

sub start_run
{
    my ($options) = @_;
    my $run = sql($node, 'postgres', "SELECT underway.start('w'" . ($options // '') . ')');
    wait_for($node, 'postgres', "SELECT state = 'waiting' FROM underway.status('$run')", 'a run waits');
    return $run;
}

sub becomes
{
    my ($run, $state, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, 'postgres', "SELECT state = '$state' FROM underway.status('$run')", $name);
}

sub effects { return sql($node, 'postgres', "SELECT coalesce(string_agg(step, ' ' ORDER BY step), '') FROM effect WHERE run = '$_[0]'") }

# Held: it is asked, and nothing happens; the next start of the server does it.
my $run = start_run();
my $paused = start_run();
sql($node, 'postgres', 'ALTER SYSTEM SET underway.enabled = off; SELECT pg_reload_conf()');
wait_for($node, 'postgres', "SELECT setting = 'off' FROM pg_settings WHERE name = 'underway.enabled'", 'the server is told to do nothing');
is(sql($node, 'postgres', "SELECT underway.cancel('$run'), underway.pause('$paused')"), 'waiting|waiting', 'a cancel and a pause are asked');
like(sql($node, 'postgres', "SELECT underway.why('$run')"), qr/^held: underway.enabled is off; .*; cancel asked by .*, not done yet$/, 'why() says so');
$node->stop('immediate');
$node->append_conf('postgresql.auto.conf', "underway.enabled = off\n");
$node->start;
is(sql($node, 'postgres', "SELECT state FROM underway.status('$run')"), 'waiting', 'held still');
sql($node, 'postgres', 'ALTER SYSTEM RESET underway.enabled; SELECT pg_reload_conf()');
becomes($run, 'cancelled', 'what was asked before the crash is done when the server may');
becomes($paused, 'paused', 'the pause too');
is(effects($run), 'act undo', 'it is undone once');
sql($node, 'postgres', "SELECT underway.signal('$paused', 's'), underway.resume('$paused')");
becomes($paused, 'succeeded', 'and resumed');

# Who does it dies in between: the run's row says it, nothing has followed.
my $hold = Session->new($node);
for my $how ('TERM', 'KILL', 'immediate')
{
    for my $ask ('cancel', 'pause', 'resume')
    {
        $run = start_run();
        if ($ask eq 'resume')
        {
            sql($node, 'postgres', "SELECT underway.pause('$run')");
            becomes($run, 'paused', 'paused before');
        }
        $hold->value("SELECT pg_advisory_lock(7867, $point)");
        sql($node, 'postgres', "SELECT underway_internal.arm_waitpoints(1 << $point)");
        sql($node, 'postgres', "SELECT underway.$ask('$run')");
        wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 7867 AND objid = $point AND NOT granted",
            "$how at $ask: the coordinator is held");
        my $pid = sql($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'underway coordinator'");
        my $backend = $hold->value('SELECT pg_backend_pid()');
        sql($node, 'postgres', 'SELECT underway_internal.arm_waitpoints(0)');
        if ($how eq 'immediate')
        {
            $node->stop('immediate');
            $node->start;
        }
        else
        {
            kill($how, $pid) or die "cannot signal $pid";
        }
        if ($how ne 'TERM')
        {
            $hold->until("pg_backend_pid() <> $backend");   # the crash has ended every connection, and the server is back
        }
        else
        {
            $hold->value("SELECT pg_advisory_unlock(7867, $point)");
        }
        if ($ask eq 'cancel')
        {
            becomes($run, 'cancelled', "$how at cancel: cancelled");
            is(effects($run), 'act undo', "$how at cancel: undone once");
        }
        else
        {
            becomes($run, $ask eq 'pause' ? 'paused' : 'waiting', "$how at $ask: done");
            sql($node, 'postgres', "SELECT underway.signal('$run', 's')");
            sql($node, 'postgres', "SELECT underway.resume('$run')") if $ask eq 'pause';
            becomes($run, 'succeeded', "$how at $ask: goes on to its end");
            is(effects($run), 'act act', "$how at $ask: each step once");
        }
    }
}
is(sql($node, 'postgres', 'SELECT count(*) FROM underway_internal.run_control'), '0', 'nothing is left to be done');

# What was asked of a run that had ended is disposed of by a client who makes the run anew, and takes his time: the coordinator goes on.
$run = start_run();
sql($node, 'postgres', "SELECT underway.cancel('$run')");
becomes($run, 'cancelled', 'a run has ended');
sql($node, 'postgres', "INSERT INTO underway_internal.run_control (run_id, kind, asked_by, requested_at) VALUES ('$run', 'pause', 'somebody', now())");
$hold->value('BEGIN');
is($hold->value("SELECT underway.retry('$run')"), 'running', 'it is made anew, not committed');
my $later = start_run();
sql($node, 'postgres', "SELECT underway.cancel('$later')");
becomes($later, 'cancelled', 'another is cancelled meanwhile');
$hold->value('ROLLBACK');
wait_for($node, 'postgres', 'SELECT count(*) = 0 FROM underway_internal.run_control', 'what came too late is forgotten');

# Two make the same run anew. One waits for the other, and hears of his commit only when the run has ended: it does not go on once more,
# whether its success is kept or not.
sql($node, 'postgres', <<'END');
CREATE TABLE fault ();
INSERT INTO fault DEFAULT VALUES;
CREATE FUNCTION may_fail(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ASSERT NOT EXISTS (SELECT FROM fault);
    PERFORM act(input);
END $$;
SELECT underway.create_workflow('keep ' || keep, ARRAY[underway.step('a', 'may_fail', retry => underway.retry_policy(max_attempts => 1))], keep => keep) FROM unnest('{all,failed}'::text[]) keep;
END
my %ended = map { $_ => sql($node, 'postgres', "SELECT underway.start('keep $_', key => 'k')") } 'all', 'failed';
becomes($ended{$_}, 'failed', "keep $_: a run fails") for keys %ended;
sql($node, 'postgres', 'TRUNCATE fault');
for my $keep ('all', 'failed')
{
    $run = $ended{$keep};
    $hold->value('BEGIN');
    is($hold->value("SELECT underway.retry('$run')"), 'running', "keep $keep: it is made anew");
    my $slow = Session->new($node);
    my $slow_pid = $slow->value('SELECT pg_backend_pid()');
    $slow->send("SELECT underway.retry('$run')");
    wait_for($node, 'postgres', "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $slow_pid AND NOT granted)", 'another waits for him');
    kill 'STOP', $slow_pid;
    $hold->value('COMMIT');
    wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM underway_internal.run WHERE id = '$run')", 'it runs and ends');
    kill 'CONT', $slow_pid;
    $slow->receive;
    is($slow->state, $keep eq 'all' ? '55000' : 'P0002', 'the other is told that it has succeeded, or is kept no more');
    is(sql($node, 'postgres', "SELECT count(*) FROM underway_internal.run WHERE id = '$run'"), '0', 'nothing is left of it');
    is(effects($run), 'act', 'it ran once');
    is(sql($node, 'postgres', "SELECT count(*) FROM underway_internal.task_key WHERE task_id = '$run'"), $keep eq 'all' ? '1' : '0', 'its key is as it left it');
    $slow->close;
}

# A parent is told to stop while the end of its child is just being written down, and that worker dies: the step ends as its child did. The run's
# row, which the worker needs, is ours meanwhile.
sql($node, 'postgres', "SELECT underway.create_workflow('parent', ARRAY[underway.child('c', 'w')])");
$run = sql($node, 'postgres', "SELECT underway.start('parent')");
my $child = "(SELECT id FROM underway_internal.run WHERE parent = '$run')";
wait_for($node, 'postgres', "SELECT state = 'waiting' FROM underway.status($child)", 'a child waits');
$hold->query("BEGIN; SELECT FROM underway_internal.run WHERE id = '$run' FOR UPDATE");
sql($node, 'postgres', "SELECT underway.signal($child, 's')");
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM underway_internal.task t JOIN pg_locks l ON l.locktype = 'transactionid' AND NOT l.granted
    WHERE t.run_id = '$run' AND t.phase = 'close' AND t.state = 'in_progress'", 'its end is being written');
sql($node, 'postgres', "SELECT underway_internal.stop_some(r, NULL, 'stop') FROM underway_internal.run r WHERE id = '$run'");
sql($node, 'postgres', "SELECT pg_terminate_backend(pid) FROM underway_internal.task t JOIN underway.workers w ON w.worker = t.slot WHERE t.run_id = '$run'");
wait_for($node, 'postgres', "SELECT count(*) > 0 FROM underway.history('$run') WHERE outcome IN ('lost', 'cancelled')", 'it is taken back');
$hold->query('COMMIT');
becomes($run, 'succeeded', 'the parent has what its child gave');
is(sql($node, 'postgres', "SELECT step, outcome FROM underway.history('$run')"), "c|lost\nc|succeeded", 'the step ended as its child did');

# A deadline that comes when all our processes have left.
$run = start_run(", timeout => '8 s'");
wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('underway coordinator', 'underway worker')",
    'coordinator and workers leave');
is(sql($node, 'postgres', "SELECT state FROM underway.status('$run')"), 'waiting', 'the run waits meanwhile');
becomes($run, 'failed', 'its deadline ends it');
is(sql($node, 'postgres', "SELECT concat_ws(' ', reason, sqlstate) FROM underway.status('$run')"), 'timed out 57014', 'as timed out');
is(effects($run), 'act undo', 'and it was undone');

# What a run waits for, of every kind, is a row: no process of ours is there, so no transaction of ours either; and each goes on.
sql($node, 'postgres', <<'END');
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('every', ARRAY[underway.wait('signal', after => '{}'), underway.sleep('timer', '1 hour', after => '{}'),
    underway.child('child', 'w', after => '{}'), underway.step('external', queue => 'outside', after => '{}'), underway.map('items', queue => 'outside', input => '[1, 2]', after => '{}'),
    underway.step('join', 'act', after => '{signal,timer,child,external,items}')]);
END
$run = sql($node, 'postgres', "SELECT underway.start('every')");
wait_for($node, 'postgres', "SELECT count(*) = 3 FROM underway.tasks WHERE queue = 'outside' AND state = 'pending'", 'all steps of a run wait');
wait_for($node, 'postgres', "SELECT state = 'waiting' FROM underway.status((SELECT child_run FROM underway.history('$run') WHERE step = 'child'))", 'its child too');
wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('underway coordinator', 'underway worker')",
    'coordinator and workers leave');
is(sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'underway%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"),
    '0', 'there is no transaction');
sql($node, 'postgres', "SELECT underway.signal('$run', 'signal'), underway.signal((SELECT child_run FROM underway.history('$run') WHERE step = 'child'), 's')");
sql($node, 'postgres', "SELECT count(*) FROM underway.dequeue('outside', 3)");
sql($node, 'postgres', "SELECT underway.complete(t.lease) FROM underway_internal.task t WHERE t.lease IS NOT NULL");
wait_for($node, 'postgres', "SELECT count(*) = 4 FROM underway.history('$run') WHERE item IS NULL AND outcome = 'succeeded'", 'signals, the child and a client move it on');
sql($node, 'postgres', "SELECT underway.set_clock(underway_internal.clock() + interval '2 hours')");
becomes($run, 'succeeded', 'the timer does the rest');
sql($node, 'postgres', 'SELECT underway.set_clock(NULL)');

# Very many at once, by one who drops their workflow.
sql($node, 'postgres', "SELECT underway.create_workflow('many', ARRAY[underway.wait('s')]);
    SELECT count(underway.start('many')) FROM generate_series(1, 1000)");
sql($node, 'postgres', "SELECT underway.drop_workflow('many', force => true)");
wait_for($node, 'postgres', 'SELECT count(*) = 0 FROM underway_internal.run', 'all runs of a workflow that is dropped end');
is(sql($node, 'postgres', "SELECT count(*) FROM underway_internal.run_archive WHERE error LIKE 'workflow \"many\" was dropped by %'"), '1000', 'as cancelled');

done_testing();
