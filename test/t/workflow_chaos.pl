# Everything is killed at random moments while runs of a workflow go on, with steps in the server, a map, branches that join, steps of
# external workers, and signals: at the end every run has ended once, and has left what an undisturbed run leaves.
#   UNDERWAY_CHAOS_SEED=n    repeats the run with that seed, which every run prints
#   UNDERWAY_CHAOS_ROUNDS=n  n times as many runs and kills
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Chaos;
use List::Util qw(sum);
use Session;
use Test::More;
use Underway;

my $seed = $ENV{UNDERWAY_CHAOS_SEED} // int(rand 1_000_000);
my $rounds = $ENV{UNDERWAY_CHAOS_ROUNDS} // 1;
my $runs = 2_000 * $rounds;
my %kills = (
    'worker TERM' => 10 * $rounds,
    'worker KILL' => 4 * $rounds,
    'coordinator TERM' => 3 * $rounds,
    'coordinator KILL' => 1 * $rounds,
    'launcher TERM' => 1 * $rounds,
    'launcher KILL' => 1 * $rounds,
    'client TERM' => 3 * $rounds,
    'client KILL' => 4 * $rounds,
    'server immediate' => 3 * $rounds);
diag "seed $seed, " . sum(values %kills) . " kills, $runs runs";
srand $seed;

my $node = start_server('workflow_chaos', extension => 1, conf => <<'END');
max_connections = 30
underway.max_workers = 4
underway.max_crashes = 1000000
END
my $session = Session->new($node);
$session->value(<<'END');
CREATE TABLE effect (run uuid, step text, input jsonb, by text);
CREATE FUNCTION act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.run_id(), input ->> 'step', input - 'step', 'inside');
    -- Some fail once, some take long.
    CASE ascii(right(underway.task_id()::text, 1)) % 16 * 16 + ascii(right(underway.task_id()::text, 2)) % 16
        WHEN 16 THEN
            IF underway.attempt() = 1 THEN
                RAISE 'the first attempt fails';
            END IF;
        WHEN 17 THEN PERFORM pg_sleep(0.05);
        ELSE NULL;
    END CASE;
    RETURN jsonb_build_object('of', input ->> 'step');
END $$;
CREATE FUNCTION items() RETURNS SETOF jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('step', 'm', 'item', n) FROM generate_series(1, 3) n
$$;
SELECT underway.create_queue('outside', heartbeat => '700 ms');
SELECT underway.create_workflow('five', ARRAY[
    underway.step('a', 'act', input => '{"step": "a", "x": "$run.x"}'),
    underway.map('m', 'act', over => 'items', concurrency => 2),
    underway.step('b', 'act', input => '{"step": "b", "m": "$steps.m"}'),
    underway.step('c', queue => 'outside', after => '{m}', input => '{"step": "c", "a": "$steps.a"}'),
    underway.wait('w', after => '{a}', timeout => '1 day'),
    underway.step('d', 'act', after => '{b,c,w}', input => '{"step": "d", "b": "$steps.b", "c": "$steps.c", "w": "$steps.w"}')],
    retry => underway.retry_policy(initial_interval => '10 ms', max_attempts => 1000));
END

# With keys, since a crash leaves in doubt. Every other run gets its signal at once, the others from whoever does step c.
my $started = 0;

sub start_some
{
    return if $started >= $runs;
    my ($first, $last) = ($started + 1, $started + 100);
    $session->query("SELECT count(CASE WHEN n % 2 = 0 THEN underway.signal(r.run, 'w', '\"go\"') END)"
          . " FROM generate_series($first, $last) n, LATERAL (SELECT underway.start('five', '{\"x\": 1}', key => n::text) AS run) r");
    $started = $last if $session->state eq '00000';
}

sub work_outside
{
    my ($client, $number) = @_;
    $client->query("CALL underway.wait_for_work('{outside}', '1 s')");
    my @tasks = split /\n/, $client->query("SELECT lease, run_id FROM underway.dequeue('outside', 20, 'client $number')") // '';
    while (@tasks)
    {
        my ($lease, $run) = split /\|/, shift @tasks;
        my $what = rand;
        $client->query("SELECT answer FROM underway.heartbeat_many('{" . join(',', $lease, map { /^([^|]*)/ } @tasks) . "}')");
        if ($what < 0.05)
        {
            $client->query("SELECT underway.fail('$lease', 'for the sake of it')");
        }
        elsif ($what < 0.1)
        {
            $client->query("SELECT underway.release('$lease')");
        }
        else
        {
            $client->query(<<"END");
BEGIN;
SELECT underway.lock_task('$lease');
INSERT INTO effect SELECT t.run_id, t.input ->> 'step', t.input - 'step', 'outside' FROM underway_internal.task t WHERE t.lease = '$lease';
SELECT underway.signal('$run', 'w', '"go"');
SELECT underway.complete('$lease', '{"of": "c"}');
COMMIT
END
        }
        last unless $client->connected;
    }
}

# The tables of one run.
sub left_by
{
    my ($which) = @_;
    return $session->value("SELECT step, input, count(*) FROM effect WHERE run = '$which' GROUP BY 1, 2 ORDER BY 1, 2");
}

my $chaos = Chaos->new($node, session => $session, kills => \%kills, effects => { inside => 6 * $runs, outside => $runs },
    clients => 2, work => \&work_outside, seconds => 600 * $rounds);
my $undisturbed = $session->value(q(SELECT underway.start('five', '{"x": 1}', key => 'undisturbed')));
ok $session->until("SELECT state = 'succeeded' FROM underway.status('$undisturbed')"), 'an undisturbed run ends';
note left_by($undisturbed);

start_some() for 1 .. 3;
$chaos->rage('SELECT by, count(*) FROM effect GROUP BY 1', \&start_some);
while ($started < $runs and $chaos->in_time)
{
    start_some() if $chaos->connected;
}
ok $session->until('NOT EXISTS (SELECT FROM underway_internal.run)', 120), 'no run is stuck'
  or diag $session->query('SELECT r.id, r.state, t.step, t.item, t.phase, t.state, t.attempt, t.run_at FROM underway_internal.run r'
      . ' LEFT JOIN underway_internal.task t ON t.run_id = r.id LIMIT 50');
$chaos->end;

$session->value("CREATE TABLE run AS SELECT underway.start('five', key => n::text) AS id FROM generate_series(1, $runs) n");
is $session->value('SELECT s.state, s.output, count(*), count(DISTINCT r.id) FROM run r, underway.status(r.id) s GROUP BY 1, 2'),
  qq(succeeded|{"of": "d"}|$runs|$runs), 'every run ended once, well';
is $session->value(<<"END"), $runs + 1, 'each has left what an undisturbed run leaves';
SELECT count(*) FROM (SELECT run, array_agg(step || input ORDER BY step, input) AS effects FROM effect GROUP BY 1) e
WHERE effects = (SELECT array_agg(step || input ORDER BY step, input) FROM effect WHERE run = '$undisturbed')
END
is $session->value('SELECT count(DISTINCT run) FROM effect'), $runs + 1, 'no effect is of a run that is not there';
is $session->value('SELECT (SELECT count(*) FROM underway_internal.task), (SELECT count(*) FROM underway_internal.step_result),'
      . ' (SELECT count(*) FROM underway_internal.signal)'), '0|0|0', 'nothing is left over';
note $session->value('SELECT h.outcome, count(*) FROM run r, underway.history(r.id) h GROUP BY 1 ORDER BY 1');

$session->close;
$node->stop;
done_testing;
