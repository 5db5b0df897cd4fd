# The examples of external workers in test/clients, in several languages and through a pooler in transaction mode: each works off
# the same tasks. One whose driver cannot be installed here is skipped.
use strict;
use warnings;

use File::Basename;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $folder = "$FindBin::RealBin/../clients";
my $node = start_server('clients', extension => 1, conf => "listen_addresses = '127.0.0.1'\n");
my $session = Session->new($node);
$session->value(<<'END');
CREATE TABLE sent (task uuid, recipient text, by text);
SELECT underway.create_queue('letters');
END
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';
my $user = $session->value('SELECT current_user');

# Runs the example on three tasks, one of which it has to fail.
sub works
{
    my ($name, $by, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $session->value(q(TRUNCATE sent, underway_internal.heartbeat; SELECT count(underway.enqueue('letters', jsonb_build_object('to', name)))
        FROM unnest('{ann,nobody,bob}'::text[]) name));
    # An end that is waited for, so that none sleeps for ever.
    my $out = '';
    my $ok = IPC::Run::run([ 'timeout', '60', @command ], '>&', \$out);
    ok $ok, "$name: runs" or diag $out;
    is $session->value("SELECT string_agg(recipient, ' ' ORDER BY recipient) FROM sent WHERE by = '$by'"), 'ann bob', "$name: did the work once";
    is $session->value("SELECT string_agg(concat_ws(' ', input ->> 'to', state, output, error), ', ' ORDER BY input ->> 'to') FROM (SELECT * FROM underway.tasks ORDER BY enqueued_at DESC, id DESC LIMIT 3) t"),
      'ann succeeded {"sent": true}, bob succeeded {"sent": true}, nobody failed no such recipient', "$name: ended its tasks";
    cmp_ok $session->value("SELECT count(*) FROM underway_internal.heartbeat WHERE progress = '{\"at\": \"envelope\"}'"), '>=', 2, "$name: beat";
}

for my $example (grep { -f } glob "$folder/*")
{
    cmp_ok scalar(split /\n/, slurp_file($example)), '<=', 40, basename($example) . ' has 40 lines or less';
}

sub can { return IPC::Run::run([@_], '>&', \my $out) }

sub examples
{
    my ($through) = @_;
    my @psql = ('psql', '-XqAt', '-f', "$folder/worker.sql");
    works("psql$through", 'psql', @psql);
    SKIP:
    {
        skip "psycopg 3 is not installed", 4 unless can('/usr/bin/python3', '-c', 'import psycopg');
        works("psycopg$through", 'psycopg', '/usr/bin/python3', "$folder/worker.py");
    }
    SKIP:
    {
        skip "node-postgres is not installed", 4 unless can('sh', '-c', "cd '$folder' && NODE_PATH=/usr/share/nodejs node -e 'require(\"pg\")'");
        local $ENV{NODE_PATH} = '/usr/share/nodejs';
        works("node$through", 'node', 'node', "$folder/worker.js");
    }
}

examples('');

SKIP:
{
    my ($jar) = grep { -f } '/usr/share/java/postgresql.jar';
    skip "JDBC is not installed", 4 unless $jar and can('javac', '-version');
    works('JDBC', 'jdbc', 'java', '-cp', $jar, "$folder/Worker.java", 'jdbc:postgresql://127.0.0.1:' . $node->port . "/postgres?user=$user");
}

SKIP:
{
    my ($bouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
    skip "PgBouncer is not installed", 1 unless $bouncer;
    my $place = PostgreSQL::Test::Utils::tempdir_short();
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    my $ini = slurp_file("$folder/pgbouncer.ini");
    $ini =~ s/UNDERWAY_HOST/@{[ $node->host ]}/g;
    $ini =~ s/UNDERWAY_PORT/@{[ $node->port ]}/g;
    $ini =~ s/POOLER_PORT/$port/g;
    $ini =~ s/FOLDER/$place/g;
    $ini =~ s/^;.*\n//mg;
    $ini =~ s/^(postgres = .*)$/$1 user=$user/m;
    append_to_file("$place/pgbouncer.ini", $ini);
    my $pooler = IPC::Run::start([ $bouncer, '-q', "$place/pgbouncer.ini" ], '>&', \my $out);
    my $ready = 0;
    for (1 .. 500)
    {
        last if $ready = -S "$place/.s.PGSQL.$port";
        select undef, undef, undef, 0.02;
    }
    ok $ready, 'the pooler runs' or diag $out;
    local $ENV{PGHOST} = $place;
    local $ENV{PGPORT} = $port;
    examples(' through PgBouncer');
    is $session->value("SELECT count(DISTINCT pid) > 0 FROM pg_stat_activity WHERE client_addr IS NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()"),
      't', 'it was the pooler that held connections';
    $pooler->kill_kill(grace => 5);
}

$session->close;
$node->stop;
done_testing;
