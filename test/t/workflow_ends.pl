# Runs that fail, under kills while they undo, while what finally runs does, and while a child run begins or ends: what is left is what an
# undisturbed run leaves.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Held;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $node = start_server('workflow_ends', extension => 1, conf => <<'END');
underway.max_workers = 2
autovacuum = off
END
my $session = Session->new($node);
$session->value(<<'END');
CREATE TABLE effect (name text, input jsonb);
-- What is to be held at a waitpoint, in its first attempt.
CREATE TABLE target (name text, input jsonb, point int);
CREATE FUNCTION act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    this text := (SELECT concat_ws(' ', t.phase, t.step) FROM underway_internal.task t WHERE t.id = underway.task_id());
BEGIN
    INSERT INTO effect VALUES (this, act.input);
    PERFORM underway_internal.arm_waitpoints(1 << t.point) FROM target t
        WHERE t.name = this AND (t.input IS NULL OR t.input = act.input) AND underway.attempt() = 1;
    IF EXISTS (SELECT FROM target t WHERE t.name = this AND t.point = 0 AND underway.attempt() = 1) THEN
        PERFORM pg_advisory_xact_lock_shared(7867, 0);
    END IF;
    RETURN act.input;
END $$;
CREATE FUNCTION breaks(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
SELECT underway.create_workflow('child', ARRAY[underway.step('k', 'act', undo => 'act'), underway.step('l', 'act')]);
SELECT underway.create_workflow('parent', ARRAY[
    underway.step('a', 'act', undo => 'act', input => '[1, 2, 3]'), underway.map('m', 'act', concurrency => 2, undo => 'act'),
    underway.child('c', 'child'), underway.step('b', 'breaks', retry => underway.retry_policy(max_attempts => 1)), underway.finally('z', 'act')]);
END

sub effects
{
    return $session->value("SELECT string_agg(format('%s %s', name, input), ', ' ORDER BY name, input::text) FROM effect");
}
sub ended
{
    my ($run) = @_;
    $session->until("SELECT state IN ('failed', 'succeeded', 'cancelled') FROM underway.status('$run')");
    return $session->value("SELECT concat_ws(': ', s.state, s.error) FROM underway.status('$run') s");
}
my $start = "SELECT underway.start('parent')";
is(ended($session->value($start)), 'failed: step "b": broken', 'an undisturbed run ends');
my $expected = effects();
like($expected, qr/^a .*, finally z .*, k .*, undo a .*, undo m 1, undo m 2, undo m 3$/, 'and does and undoes');

# point 0: in the handler; 3: it has ended; 7: the step is finished and not committed.
my $hold = Session->new($node);
my %at = (
    'undo a' => [ 0, 3, 7 ], 'undo m' => [ 0, 7 ], 'finally z' => [ 0, 7 ], 'k' => [ 0 ], 'l' => [ 3, 7 ]);
for my $how ('TERM', 'KILL', 'immediate')
{
    for my $target (sort keys %at)
    {
        for my $point ($how eq 'TERM' ? @{ $at{$target} } : $at{$target}[-1])
        {
            my $name = "$how at point $point of $target";
            my $input = $target eq 'undo m' ? "'2'" : 'NULL';
            $session->value("DELETE FROM effect; DELETE FROM target; INSERT INTO target VALUES ('$target', $input, $point)");
            my $run = kill_held($node, $session, $hold, how => $how, point => $point, name => $name, begin => sub { $session->value($start) });
            is(ended($run), 'failed: step "b": broken', "$name: the run ends");
            is(effects(), $expected, "$name: each effect is there once");
        }
    }
}
ok($session->until('NOT EXISTS (SELECT FROM underway_internal.task)'), 'no task is left');
is($session->value("SELECT (SELECT count(*) FROM underway_internal.step_result) + (SELECT count(*) FROM underway_internal.run)"), 0,
    'neither a result nor a run is left');

$session->close;
$hold->close;
$node->stop;
done_testing();
