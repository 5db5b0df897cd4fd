# Without shared_preload_libraries: CREATE EXTENSION says which line to write, and nothing else happens.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Underway;

my $node = start_server('preload', conf => "shared_preload_libraries = ''");

for my $case ([ '', 'underway' ], [ 'auto_explain', 'auto_explain, underway' ], [ 'auto_explain,pg_prewarm', 'auto_explain,pg_prewarm, underway' ])
{
    my ($value, $line) = @$case;
    if ($value ne '')
    {
        $node->append_conf('postgresql.conf', "shared_preload_libraries = '$value'");
        $node->restart;
    }
    my $err = sql_fails($node, 'postgres', 'CREATE EXTENSION underway', qr/ERROR:  55000: underway is not loaded at server start/,
        "without underway in '$value'");
    like($err, qr/HINT:  .*restart the server.*shared_preload_libraries = '\Q$line\E'$/m, "the line to put into postgresql.conf: '$line'");
    like($err, qr/DETAIL:  /, 'and why');
}

is(sql($node, 'postgres', "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'underway%'"), '0', 'nothing was left behind');
is(our_processes($node), '', 'no process of ours runs');
is(sql($node, 'postgres', 'CREATE TABLE t AS SELECT 1 AS a; SELECT a FROM t'), '1', 'the server does its work');
sql_fails($node, 'postgres', "LOAD 'underway'; CREATE EXTENSION underway", qr/55000/, 'a library that was loaded by hand');
is(sql($node, 'postgres', 'DROP TABLE t; SELECT 1'), '1', 'and goes on');

# The line that was printed is right.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain,pg_prewarm, underway'");
$node->restart;
install($node, 'postgres');
is_lively($node, 'postgres', 'with that line it works');

# Whoever watches statements sees the handler's call as one.
$node->append_conf('postgresql.conf', 'auto_explain.log_min_duration = 0');
$node->restart;
my $from = -s $node->logfile;
is_lively($node, 'postgres', 'a task that auto_explain watches');
like(slurp_file($node->logfile, $from), qr/Query Text: SELECT public\.note\(\$1\)/, 'it has seen the call of the handler');

# Taken out again: what is installed answers clearly, and the database can do without.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain'");
$node->restart;
sql_fails($node, 'postgres', "SELECT underway.enqueue('note')", qr/ERROR:  55000: .*HINT:  .*'auto_explain, underway'/s,
    'enqueue after the line was taken out');
sql($node, 'postgres', 'DROP EXTENSION underway CASCADE');
is(sql($node, 'postgres', "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'underway%'"), '0', 'DROP EXTENSION works');

$node->stop;
done_testing();
