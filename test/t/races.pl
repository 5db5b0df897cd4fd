# Clients do at once, at random, whatever makes rows pending, locks or moves them: enqueue with priorities, delays and keys, savepoints,
# rollbacks, two-phase commits, cancel, pause, retry, pausing and changing queues; workers and the coordinator are terminated meanwhile.
# In rounds, since the next commit would heal much of what this one missed: after each round nothing is stranded. At the end each task
# has ended once, and each effect is there exactly once. The safety check is an hour away and idle workers stay for a minute.
#   UNDERWAY_RACES_SEED=n    repeats the clients' choices of that run (their interleaving is the machine's)
#   UNDERWAY_RACES_ROUNDS=n  so many rounds
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use POSIX ();
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $seed = $ENV{UNDERWAY_RACES_SEED} // int(rand 1_000_000);
my $rounds = $ENV{UNDERWAY_RACES_ROUNDS} // 24;
my $clients = 4;
diag "seed $seed, $rounds rounds";
srand $seed;

my $node = start_server('races', extension => 1, conf => <<'END');
max_connections = 30
max_prepared_transactions = 20
underway.max_workers = 4
END
my $session = Session->new($node);
is($session->value('SHOW underway.safety_check_interval'), '1h', 'no safety check heals what is missed');
$session->value(<<'END');
CREATE TABLE enqueued (id uuid PRIMARY KEY);
CREATE TABLE effect (task uuid, queue text);
-- Sequences are not rolled back.
CREATE SEQUENCE over_limit;
CREATE SEQUENCE met;
CREATE FUNCTION act(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
DECLARE
    chance float8 := random();
    place bool := false;
BEGIN
    -- Nobody else is at this task now.
    IF NOT pg_try_advisory_xact_lock(('x' || right(underway.task_id()::text, 12))::bit(48)::bigint) THEN
        PERFORM nextval('public.met');
    END IF;
    IF input ->> 'queue' = 'limited' THEN
        FOR n IN 1..3 LOOP
            place := place OR pg_try_advisory_xact_lock(1, n);
            EXIT WHEN place;
        END LOOP;
        IF NOT place THEN
            PERFORM nextval('public.over_limit');
        END IF;
    END IF;
    INSERT INTO public.effect VALUES (underway.task_id(), input ->> 'queue');
    IF chance < 0.03 THEN
        PERFORM pg_sleep(0.07);         -- what its worker holds besides is taken back
    ELSIF chance < 0.1 THEN
        RAISE EXCEPTION 'by chance';
    ELSIF chance < 0.13 THEN
        DELETE FROM public.effect e WHERE e.task = underway.task_id();
        RETURN underway.again('10 ms');
    ELSIF chance < 0.15 THEN
        INSERT INTO public.enqueued SELECT underway.enqueue('free', '{"queue": "free"}', priority => 2);
    END IF;
    RETURN NULL;
END $$;
SELECT underway.create_queue(name, 'act', concurrency => c, batch => b,
    retry => underway.retry_policy(max_attempts => 1000, initial_interval => '10 ms', max_interval => '100 ms'))
    FROM (VALUES ('free', NULL, NULL), ('limited', 3, NULL), ('batched', NULL, 7)) q(name, c, b);
END

my $gid = 0;

sub pick { return $_[ int rand @_ ] }

sub moment { return sprintf 'SELECT pg_sleep(%.3f);', rand() < 0.5 ? 0 : rand 0.02 }

sub enqueue
{
    my $queue = pick(qw(free limited batched));
    my $input = "jsonb_build_object('queue', '$queue')";
    my $options = join '', (rand() < 0.4 ? ', priority => ' . int rand 16 : ()), (rand() < 0.2 ? ", delay => '" . int(rand 400) . " ms'" : ());
    if (rand() < 0.2)
    {
        my $n = 1 + int rand 30;
        return "INSERT INTO enqueued SELECT unnest(underway.enqueue_many('$queue', array_fill($input, ARRAY[$n])$options));";
    }
    $options .= ", key => '" . int(rand 200) . "'" if rand() < 0.2;
    return "INSERT INTO enqueued SELECT underway.enqueue('$queue', $input$options) ON CONFLICT DO NOTHING;";
}

# A task in that state, any of the first ones.
sub task
{
    my $state = shift;
    return sprintf "(SELECT t.id FROM underway_internal.task t WHERE t.state = '$state' OFFSET %d LIMIT 1) t", int rand 5;
}

sub control
{
    my $what = rand;
    return 'SELECT underway.cancel(t.id) FROM ' . task(rand() < 0.9 ? 'pending' : 'in_progress') . ';' if $what < 0.5;
    return 'SELECT underway.pause(t.id) FROM ' . task('pending') . ';' if $what < 0.65;
    return 'SELECT underway.resume(t.id) FROM ' . task('waiting') . ';' if $what < 0.8;
    return 'SELECT underway.retry(t.id) FROM ' . task('pending') . ';' if $what < 0.9;
    return "SELECT underway.retry(t.id) FROM (SELECT a.id FROM underway_internal.archive a WHERE a.state = 'cancelled' LIMIT 1) t;";
}

# One transaction, as one string.
sub transaction
{
    my @parts;
    for (0 .. int rand 4)
    {
        my $part = rand() < 0.7 ? enqueue() : control();
        if (rand() < 0.3)
        {
            my $end = pick('ROLLBACK TO s;', 'RELEASE s;', 'ROLLBACK TO s; RELEASE s;');
            $part = "SAVEPOINT s; $part " . moment() . " $end";
        }
        push @parts, $part, moment();
    }
    my $way = rand;
    if ($way < 0.1)
    {
        my $name = "$$-" . ++$gid;
        my $end = pick('COMMIT', 'ROLLBACK');
        return "BEGIN; @parts PREPARE TRANSACTION '$name'; " . moment() . " $end PREPARED '$name'";
    }
    return "BEGIN; @parts " . ($way < 0.3 ? 'ROLLBACK' : 'COMMIT');
}

sub step
{
    my ($client, $quiet) = @_;
    if (!$quiet and rand() < 0.1)
    {
        my $queue = pick(qw(free limited batched));
        $client->query("SELECT underway.pause_queue('$queue')");
        $client->query(moment());
        $client->query("SELECT underway.resume_queue('$queue')");
    }
    elsif (!$quiet and rand() < 0.04)
    {
        $client->query(sprintf "SELECT underway.alter_queue('free', priority => %d)", rand 16);
    }
    else
    {
        $client->query(transaction());
        # What one statement of it could not do is no error of the test: the task had ended, or two locked each other out.
        my $state = $client->state;
        $client->query('ROLLBACK') if $state ne '00000';
        print STDERR "# $state: " . $client->answer . "\n" unless $state =~ /^(00000|55000|P0002|40P01|25P02|42704)$/;
    }
    select undef, undef, undef, rand 0.02;
    return;
}

# All clients at once; sometimes a process of ours is terminated under them. True when all came through.
sub round
{
    my ($steps, $quiet) = @_;
    my %running;
    for (1 .. $clients)
    {
        my $random = int rand 1_000_000;
        my $pid = fork // die "fork: $!";
        if ($pid == 0)
        {
            # The test's connection and its clean-up are not this process's.
            $session->forget;
            srand $random;
            my $client = Session->new($node);
            eval { step($client, $quiet) for 1 .. $steps };
            $client->close;
            POSIX::_exit($@ ? 1 : 0);
        }
        $running{$pid} = 1;
    }
    my $bad = 0;
    local $?;
    while (%running)
    {
        my $pid = waitpid -1, POSIX::WNOHANG;
        if ($pid > 0)
        {
            $bad++ if delete $running{$pid} and $?;
            next;
        }
        select undef, undef, undef, 0.02;
        next if $quiet or rand() > 0.06;
        my @pids = $session->pids(rand() < 0.8 ? 'worker' : 'coordinator');
        $session->value('SELECT pg_terminate_backend(' . pick(@pids) . ')') if @pids;
    }
    return !$bad;
}

for my $n (1 .. $rounds)
{
    # Every other round goes without what makes everybody look anew: changes of queues and deaths.
    ok(round(3 + int rand 10, $n % 2), "round $n: every client came through");
    # Paused is not stranded. As few statements as can be: each is a commit that may wake somebody.
    my $paused = $session->value("SELECT count(*) FROM underway_internal.task WHERE state = 'waiting'");
    $session->value("SELECT underway.resume(t.id) FROM underway_internal.task t WHERE t.state = 'waiting'") if $paused;
    my $empty = $session->until('NOT EXISTS (SELECT FROM underway_internal.task)', 30);
    ok($empty, "round $n: no task is stranded") and next;
    diag $session->query("SELECT t.*, underway.why(t.id) FROM underway_internal.task t LIMIT 10");
    diag $session->query('SELECT * FROM underway_internal.workers()');
    last;
}
is($session->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'no transaction is left prepared');
my $ended = $session->value("SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM (SELECT state, count(*) AS n FROM underway.tasks GROUP BY 1) s");
note $ended;
like($ended, qr/^(cancelled \d+, )?succeeded \d+$/, 'all have ended well, or were cancelled');
is($session->value('SELECT count(*) FROM enqueued e FULL JOIN underway.tasks t USING (id) WHERE e.id IS NULL OR t.id IS NULL'),
    0, 'what was enqueued is what has ended');
is($session->value("SELECT count(*) FROM (SELECT id FROM underway_internal.archive WHERE state = 'succeeded' GROUP BY 1 HAVING count(*) > 1) d"),
    0, 'no task has succeeded twice');
is($session->value('SELECT count(*) FROM (SELECT task FROM effect GROUP BY 1 HAVING count(*) > 1) d'), 0, 'no effect is there twice');
is($session->value("SELECT count(*) FROM effect e FULL JOIN (SELECT id FROM underway.tasks WHERE state = 'succeeded') t ON t.id = e.task"
          . ' WHERE e.task IS NULL OR t.id IS NULL'),
    0, 'there is an effect of each task that succeeded, and of no other');
is($session->value('SELECT is_called FROM met'), 'f', 'no task was run by two at once');
is($session->value('SELECT is_called FROM over_limit'), 'f', 'the limit was kept');
ok($session->until("NOT EXISTS (SELECT FROM underway_internal.workers() w WHERE w.state <> 'idle' OR w.tasks > 0)", 20), 'everybody sleeps')
  or diag $session->query('SELECT * FROM underway_internal.workers()');

$session->close;
$node->stop;
done_testing;
