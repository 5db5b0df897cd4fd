# Runs of workflows under kills, each at a chosen point of a chosen step; and how many commits a run costs.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Held;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $node = start_server('workflows', extension => 1, conf => <<'END');
underway.max_workers = 2
autovacuum = off
END
my $session = Session->new($node);
$session->value(<<'END');
CREATE EXTENSION pg_walinspect;
CREATE TABLE effect (run uuid DEFAULT underway.run_id(), task uuid DEFAULT underway.task_id(), step text, input jsonb);
-- The step that is to be held at a waitpoint, in its first attempt.
CREATE TABLE target (step text, input jsonb, point int);
CREATE FUNCTION act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    name text := (SELECT t.step FROM underway_internal.task t WHERE t.id = underway.task_id());
BEGIN
    INSERT INTO effect (step, input) VALUES (name, act.input);
    PERFORM underway_internal.arm_waitpoints(1 << t.point) FROM target t
        WHERE t.step = name AND (t.input IS NULL OR t.input = act.input) AND underway.attempt() = 1;
    IF EXISTS (SELECT FROM target t WHERE t.step = name AND t.point = 0 AND underway.attempt() = 1) THEN
        PERFORM pg_advisory_xact_lock_shared(7867, 0);
    END IF;
    RETURN to_jsonb(name);
END $$;
CREATE FUNCTION items(input jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT generate_series(1, 6)';
SELECT underway.create_workflow('three', ARRAY[underway.step('a', 'act'), underway.step('b', 'act'), underway.step('c', 'act')]);
SELECT underway.create_workflow('five', ARRAY[
    underway.step('a', 'act'), underway.map('m', 'act', over => 'items', concurrency => 2, after => '{a}'),
    underway.step('b', 'act', after => '{m}'), underway.step('c', 'act', after => '{m}'), underway.step('d', 'act', after => '{b,c}')]);
END

# The commits of one run: of the claim, and one for each step; and that of the statement that lets it begin.
$session->value("SELECT underway.pause_queue('three')");
my $run = $session->value("SELECT underway.start('three')");
# The coordinator's first look at what is kept opens three rings, which are three commits.
ok($session->until("SELECT count(*) = 3 FROM underway_internal.ring_slot WHERE closed_at IS NULL"), 'the coordinator is up');
$session->value("CREATE TABLE ready AS SELECT pg_current_wal_insert_lsn() AS at");
my $before = $session->value("SELECT pg_current_wal_insert_lsn()");
$session->value("SELECT underway.resume_queue('three')");
ok($session->until("SELECT state = 'succeeded' FROM underway.status('$run')"), 'a run of three steps ends');
my $commits = $session->value("SELECT count(*) FROM pg_get_wal_records_info_till_end_of_wal('$before')
    WHERE resource_manager = 'Transaction' AND record_type = 'COMMIT'");
is($commits, 1 + 1 + 3, 'three steps are three commits and one of the first claim');

# Kills. point 0: in the handler; 2: a task is claimed and that is not committed; 3: the handler has ended; 7: the step is finished and not
# committed; 8: a child of the map is committed, and its worker has not looked whether it was the last; 9: the step is committed, and the next
# one is claimed with it and has not begun.
sub undisturbed
{
    my ($id) = @_;
    return $session->value("SELECT string_agg(format('%s %s', step, input), ', ' ORDER BY step, input::text) FROM effect WHERE run = '$id'");
}
my %expected;
for my $workflow ('five', 'three')
{
    $run = $session->value("SELECT underway.start('$workflow', '{\"n\": 1}')");
    ok($session->until("SELECT state = 'succeeded' FROM underway.status('$run')"), "an undisturbed run of $workflow ends");
    $expected{$workflow} = undisturbed($run);
}

my $hold = Session->new($node);
for my $how ('TERM', 'KILL', 'immediate')
{
    # The steps of three are plain (plain_step.cpp), those of five are not.
    for my $at ([ 'five', 'a', 2 ], [ 'five', 'a', 0 ], [ 'five', 'a', 3 ], [ 'five', 'a', 7 ], [ 'five', 'a', 9 ], [ 'five', 'm', 0, 3 ],
        [ 'five', 'm', 7, 4 ], [ 'five', 'm', 8, 6 ], [ 'five', 'c', 3 ], [ 'five', 'c', 7 ], [ 'five', 'd', 7 ],
        [ 'three', 'a', 0 ], [ 'three', 'a', 7 ], [ 'three', 'a', 9 ], [ 'three', 'b', 3 ], [ 'three', 'b', 7 ], [ 'three', 'c', 7 ])
    {
        my ($workflow, $step, $point, $item) = @$at;
        my $name = "$how at point $point of step $step of $workflow";
        my $input = defined $item ? "'$item'" : 'NULL';
        $session->value("DELETE FROM target; INSERT INTO target VALUES ('$step', $input, $point)");
        my $id = kill_held($node, $session, $hold, how => $how, point => $point, name => $name, begin => sub {
            # Before the first step there is no handler yet that could arm it.
            $session->value("SELECT underway_internal.arm_waitpoints(1 << $point)") if $point == 2;
            return $session->value("SELECT underway.start('$workflow', '{\"n\": 1}')");
        });
        $session->until("SELECT state = 'succeeded' FROM underway.status('$id')");
        is($session->value("SELECT s.state || ': ' || coalesce(s.error, '') FROM underway.status('$id') s"), 'succeeded: ', "$name: the run ends");
        is(undisturbed($id), $expected{$workflow}, "$name: each effect is there once");
    }
}
# A cancel is known, and not all that it stops can be had, when the coordinator goes: the next one finishes it.
$session->value("SELECT underway.create_workflow('waits', ARRAY[underway.wait('w')])");
$run = $session->value("SELECT underway.start('waits')");
$hold->connect unless $hold->connected;
$hold->value("BEGIN; SELECT FROM underway_internal.task WHERE run_id = '$run' FOR UPDATE");
$session->value("SELECT underway.cancel('$run')");
ok($session->until("SELECT count(*) > 0 FROM underway_internal.run_control WHERE run_id = '$run' AND seen"), 'the coordinator has seen the cancel');
my @coordinator = $session->pids('coordinator');
kill 'TERM', @coordinator;
ok($session->until("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'underway coordinator' AND pid <> $coordinator[0] AND state = 'idle'"),
    'another coordinator has looked');
$hold->value('ROLLBACK');
ok($session->until("SELECT state = 'cancelled' FROM underway.status('$run')"), 'the run ends cancelled');

ok($session->until('NOT EXISTS (SELECT FROM underway_internal.task)'), 'no task is left');
is($session->value("SELECT count(*) FROM underway_internal.step_result"), 0, 'no result is left');

$session->close;
$hold->close;
$node->stop;
done_testing();
