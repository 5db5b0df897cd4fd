# What the TAP tests share: servers with the extension, and their processes.
package Underway;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_server pids processes);

# A server with the extension in its database postgres, that starts anew after a crash of one of its processes.
sub start_server
{
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(%{ $options{init} // {} });
    $node->append_conf('postgresql.conf', "restart_after_crash = on\n" . ($options{conf} // ''));
    $node->start;
    $node->safe_psql('postgres', 'CREATE EXTENSION underway');
    return $node;
}

# Those of one kind: launcher, coordinator or worker.
sub pids
{
    my ($session, $kind) = @_;
    return split /\n/,
      $session->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'underway $kind' ORDER BY pid") // '';
}

# How many there are of each: "1 launcher, 1 coordinator".
sub processes
{
    my ($session) = @_;
    return $session->query(
        "SELECT string_agg(n || ' ' || kind, ', ' ORDER BY kind) FROM (SELECT substr(backend_type, 10) AS kind, count(*) AS n"
          . " FROM pg_stat_activity WHERE backend_type IN ('underway launcher', 'underway coordinator') GROUP BY 1) x");
}

1;
