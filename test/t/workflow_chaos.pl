# Everything is killed at random moments while runs of a workflow go on, with steps in the server, a map, branches that join, steps of
# external workers, signals, undo and what finally runs: at the end every run has ended once, and has left what an undisturbed run leaves.
# Of ten runs two fail in their last step, and one is cancelled at some moment.
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
-- Some fail once, some take long.
CREATE FUNCTION disturb() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE ascii(right(underway.task_id()::text, 1)) % 16 * 16 + ascii(right(underway.task_id()::text, 2)) % 16
        WHEN 16 THEN
            IF underway.attempt() = 1 THEN
                RAISE 'the first attempt fails';
            END IF;
        WHEN 17 THEN PERFORM pg_sleep(0.05);
        ELSE NULL;
    END CASE;
END $$;
CREATE FUNCTION act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.run_id(), input ->> 'step', input - 'step', 'inside');
    PERFORM disturb();
    RETURN jsonb_build_object('of', input ->> 'step', 'item', input -> 'item');
END $$;
CREATE FUNCTION unact(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.run_id(), 'undo ' || (input ->> 'of'), input -> 'item', 'inside');
    PERFORM disturb();
END $$;
CREATE FUNCTION last_act(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.run_id(), 'd', input, 'inside');
    PERFORM disturb();
    RETURN CASE WHEN input -> 'fails' = 'true' THEN underway.give_up('as asked') ELSE underway.next('{"of": "d"}') END;
END $$;
CREATE FUNCTION final_act(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.run_id(), 'finally', input -> 'state', 'inside');
    PERFORM disturb();
END $$;
CREATE FUNCTION items() RETURNS SETOF jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('step', 'm', 'item', n) FROM generate_series(1, 3) n
$$;
SELECT underway.create_queue('outside', heartbeat => '700 ms');
SELECT underway.create_workflow('five', ARRAY[
    underway.step('a', 'act', input => '{"step": "a", "x": "$run.x"}', undo => 'unact'),
    underway.map('m', 'act', over => 'items', concurrency => 2, undo => 'unact'),
    underway.step('b', 'act', input => '{"step": "b", "m": "$steps.m"}'),
    underway.step('c', queue => 'outside', after => '{m}', input => '{"step": "c", "a": "$steps.a"}', undo_queue => 'outside'),
    underway.wait('w', after => '{a}', timeout => '1 day'),
    underway.step('d', 'last_act', after => '{b,c,w}', input => '{"fails": "$run.fails", "b": "$steps.b", "c": "$steps.c", "w": "$steps.w"}'),
    underway.finally('z', 'final_act')],
    retry => underway.retry_policy(initial_interval => '10 ms', max_attempts => 1000));
END

# With keys, since a crash leaves in doubt. Every other run gets its signal at once, the others from whoever does step c.
my $started = 0;

sub start_some
{
    return if $started >= $runs;
    my ($first, $last) = ($started + 1, $started + 100);
    $session->query("SELECT count(CASE WHEN n % 2 = 0 THEN underway.signal(r.run, 'w', '\"go\"') END)"
          . " FROM generate_series($first, $last) n, LATERAL (SELECT underway.start('five', jsonb_build_object('x', 1, 'fails', n % 5 = 0), key => n::text) AS run) r");
    $started = $last if $session->state eq '00000';
}

# Some of those that are to be cancelled and have not ended; one may do so just now, which is an error.
sub cancel_some
{
    $session->query("SELECT underway.cancel(r.id) FROM underway.runs r WHERE r.workflow = 'five' AND r.finished_at IS NULL"
          . " AND r.state IN ('running', 'waiting') AND r.key LIKE '%3' ORDER BY r.started_at LIMIT 10");
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
INSERT INTO effect SELECT t.run_id, CASE WHEN t.headers ? 'undo' THEN 'undo c' ELSE 'c' END,
    CASE WHEN NOT t.headers ? 'undo' THEN t.input - 'step' END, 'outside' FROM underway_internal.task t WHERE t.lease = '$lease';
SELECT underway.signal('$run', 'w', '"go"', key => 'c');
SELECT underway.complete('$lease', '{"of": "c"}');
COMMIT
END
        }
        last unless $client->connected;
    }
}

my $chaos = Chaos->new($node, session => $session, kills => \%kills, effects => { inside => 6 * $runs, outside => $runs },
    clients => 2, work => \&work_outside, seconds => 600 * $rounds);
my %undisturbed;
for my $ending ('succeeded', 'failed')
{
    my $fails = $ending eq 'failed' ? 'true' : 'false';
    $undisturbed{$ending} = $session->value(qq(SELECT underway.start('five', '{"x": 1, "fails": $fails}', key => '$ending')));
    ok $session->until("SELECT state = '$ending' FROM underway.status('$undisturbed{$ending}')"), 'an undisturbed run ends';
}
$session->value('CREATE VIEW left_by AS SELECT run, array_agg(concat_ws(\' \', step, input) ORDER BY step, input) AS effects FROM effect GROUP BY 1');
note $session->value("SELECT unnest(effects) FROM left_by WHERE run = '$undisturbed{failed}'");

start_some() for 1 .. 3;
$chaos->rage('SELECT by, count(*) FROM effect GROUP BY 1', sub { start_some(); cancel_some() });
while ($started < $runs and $chaos->in_time)
{
    start_some() if $chaos->connected;
}
ok $session->until('NOT EXISTS (SELECT FROM underway_internal.run)', 120), 'no run is stuck'
  or diag $session->query(<<'END');
SELECT r.id, r.state, r.ending, (SELECT string_agg(c.kind || c.seen, ' ') FROM underway_internal.run_control c WHERE c.run_id = r.id), t.step, t.item, t.phase, t.state, t.attempt, t.run_at FROM underway_internal.run r
    LEFT JOIN underway_internal.task t ON t.run_id = r.id LIMIT 50;
SELECT r.id, h.step, h.item, h.attempt, h.outcome, h.started_at, h.ended_at, h.worker, h.error
    FROM (SELECT id FROM underway_internal.run LIMIT 3) r, underway.history(r.id) h ORDER BY r.id, h.ended_at
END
$chaos->end;

# What became of each: those that were cancelled in time have undone what they did, once.
$session->value(<<"END");
CREATE TABLE run AS SELECT n, underway.start('five', key => n::text) AS id FROM generate_series(1, $runs) n;
CREATE TABLE ended AS SELECT r.n, r.id, s.state, s.error, l.effects, (SELECT jsonb_object_agg(e.step, e.times)
        FROM (SELECT step, count(*) AS times FROM effect WHERE run = r.id GROUP BY 1) e) AS times
    FROM run r CROSS JOIN LATERAL underway.status(r.id) s LEFT JOIN left_by l ON l.run = r.id;
END
is $session->value('SELECT count(*), count(DISTINCT id) FROM ended'), "$runs|$runs", 'every run ended once';
is $session->value('SELECT state, error, count(*) FROM ended WHERE n % 10 <> 3 GROUP BY 1, 2 ORDER BY 1'),
  'failed|step "d": as asked|' . $runs / 5 . "\nsucceeded||" . $runs * 0.7, 'as it was to end';
for my $ending ('succeeded', 'failed')
{
    is $session->value("SELECT count(*) FROM ended WHERE state = '$ending'
        AND effects IS DISTINCT FROM (SELECT effects FROM left_by WHERE run = '$undisturbed{$ending}')"), 0,
      "each that has $ending has left what an undisturbed run leaves";
}
is $session->value(<<'END'), '', 'each that was cancelled has undone what it did';
SELECT n, times FROM ended WHERE state = 'cancelled' AND NOT (
    coalesce(times -> 'a', '0') = coalesce(times -> 'undo a', '0') AND coalesce(times -> 'a', '1') = '1'
    AND coalesce(times -> 'm', '0') = coalesce(times -> 'undo m', '0')
    AND coalesce(times -> 'c', '0') <= coalesce(times -> 'undo c', '0') AND coalesce(times -> 'undo c', '1') = '1'
    AND times -> 'finally' = '1' AND coalesce(times -> 'd', '1') = '1')
END
cmp_ok $session->value("SELECT count(*) FROM ended WHERE state = 'cancelled'"), '>', 0, 'some were cancelled in time';
is $session->value('SELECT count(DISTINCT run) FROM effect'), $runs + 2 - $session->value('SELECT count(*) FROM ended WHERE effects IS NULL'),
  'no effect is of a run that is not there';
is $session->value('SELECT (SELECT count(*) FROM underway_internal.task), (SELECT count(*) FROM underway_internal.step_result),'
      . ' (SELECT count(*) FROM underway_internal.signal)'), '0|0|0', 'nothing is left over';
note $session->value('SELECT state, count(*) FROM ended GROUP BY 1 ORDER BY 1');
note $session->value('SELECT h.outcome, count(*) FROM run r, underway.history(r.id) h GROUP BY 1 ORDER BY 1');

$session->close;
$node->stop;
done_testing;
