# The stories of test/stories: each page's examples run, in order, in a database of their own, and show what the page shows.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Examples;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('stories');
$node->init(extra => ['--username=postgres']);
$ENV{PGUSER} = 'postgres';
$node->start;

for my $page (glob 'test/stories/*.md') {
    my ($name) = $page =~ m{([^/]+)\.md$};
    $node->safe_psql('postgres', "CREATE DATABASE story_$name");
    $node->safe_psql("story_$name", 'CREATE EXTENSION underway');
    subtest $name => sub { run_examples($node->connstr("story_$name"), slurp_file($page)) };
    $node->safe_psql('postgres', "DROP DATABASE story_$name");
}

$node->stop;
done_testing();
