use strict;
use warnings;

# Writes one JSON object a line for each test, as sytest-config/run reads them:
#   {"file": "tests/…", "name": "…", "result": "pass" | "fail" | "skip", "why": "…", "seconds": 0.1}
# What is diagnosed goes to standard error.
package SyTest::Output::Records;

use constant FORMAT => "records";

STDOUT->autoflush( 1 );
STDERR->autoflush( 1 );

my $file = "";

sub run_file
{
   my ( undef, $name ) = @_;
   $file = $name;
}

sub enter_test
{
   my ( undef, $name ) = @_;
   return SyTest::Output::Records::Test->new( $file, $name );
}

sub enter_multi_test
{
   my ( undef, $name ) = @_;
   return SyTest::Output::Records::Test->new( $file, $name );
}

sub final_pass {}

sub final_fail {}

sub status {}

sub diag
{
   my ( undef, $message ) = @_;
   print STDERR "# $message\n";
}

sub diagwarn
{
   my ( undef, $message ) = @_;
   print STDERR "# warning: $message\n";
}

# One test, which may have several steps: it fails when one of them does.
package SyTest::Output::Records::Test;

use JSON ();
use Time::HiRes ();

sub new
{
   my ( $class, $file, $name ) = @_;
   return bless { file => $file, name => $name, failures => [] }, $class;
}

sub name { return $_[0]->{name} }

sub failed { return scalar @{ $_[0]->{failures} } }

sub skipped { return defined $_[0]->{skip_reason} }

sub failure { return join "\n", @{ $_[0]->{failures} } }

sub start
{
   my ( $self ) = @_;
   $self->{started} = Time::HiRes::time;
}

sub passed { return $_[0]->{passed} }

sub pass
{
   my ( $self ) = @_;
   $self->{passed} = 1;
}

sub fail
{
   my ( $self, $failure ) = @_;
   push @{ $self->{failures} }, $failure;
}

sub ok
{
   my ( $self, $ok, $step ) = @_;
   $self->fail( "step failed: $step" ) unless $ok;
}

sub skip
{
   my ( $self, $reason ) = @_;
   $self->{skip_reason} = $reason;
}

sub leave
{
   my ( $self ) = @_;

   my $result = $self->skipped ? "skip" : $self->failed ? "fail" : "pass";
   my $seconds = Time::HiRes::time - ( $self->{started} // Time::HiRes::time );
   print JSON->new->ascii->canonical->encode( {
      file    => $self->{file},
      name    => $self->{name},
      result  => $result,
      why     => $self->{skip_reason} // $self->failure,
      seconds => sprintf( "%.1f", $seconds ) + 0,
   } ), "\n";
}

1;
