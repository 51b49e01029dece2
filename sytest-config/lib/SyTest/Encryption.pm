use strict;
use warnings;

# What the suite's tests of encryption leave out or make up, and a server may insist on: that a device's keys are signed
# by the device, and that rooms are encrypted. `adapted` puts this into them.
package SyTest::Encryption;

use Protocol::Matrix qw( encode_base64_unpadded sign_json );

use SyTest::Crypto qw( ed25519_nacl_keypair );

# Of each user's device: its keypair, and its keys as they were uploaded last.
my %pairs;
my %uploads;

sub _pair
{
   my ( $user ) = @_;
   return @{ $pairs{ $user->user_id . " " . $user->device_id } //= [ ed25519_nacl_keypair() ] };
}

# The device's public key.
sub public_key
{
   my ( $user ) = @_;
   my ( $public ) = _pair( $user );
   return encode_base64_unpadded( $public );
}

# The device's keys as they were uploaded last, without their signature; and that.
sub uploaded_keys
{
   my ( $user ) = @_;
   my %keys = %{ $uploads{ $user->user_id . " " . $user->device_id } // {} };
   delete $keys{signatures};
   return \%keys;
}

sub signature
{
   my ( $user ) = @_;
   my $keys = $uploads{ $user->user_id . " " . $user->device_id } or return undef;
   return $keys->{signatures}{ $user->user_id }{ "ed25519:" . $user->device_id };
}

# An upload of keys with the device's own in the place of those that it has, and signed. Keys that should be refused
# have none, and stay as they are. A text of its own makes each upload another one.
sub signed_upload
{
   my ( $user, $content ) = @_;

   my $keys = $content->{device_keys};
   return $content unless $keys and $keys->{keys};

   my $device = $user->device_id;
   my %signed = (
      %$keys,
      user_id    => $user->user_id,
      device_id  => $device,
      algorithms => $keys->{algorithms} // [ "m.olm.v1.curve25519-aes-sha2" ],
      keys       => { map { +"$_:$device" => public_key( $user ) } qw( curve25519 ed25519 ) },
      nonce      => "n" . int( rand( 1e9 ) ),
   );
   delete $signed{signatures};
   my ( undef, $secret ) = _pair( $user );
   sign_json( \%signed, secret_key => $secret, origin => $user->user_id, key_id => "ed25519:$device" );
   $uploads{ $user->user_id . " " . $device } = \%signed;
   return { %$content, device_keys => \%signed };
}

# The options of an encrypted room.
sub encrypted
{
   return initial_state => [ {
      type    => "m.room.encryption",
      content => { algorithm => "m.megolm.v1.aes-sha2" },
   } ];
}

1;
