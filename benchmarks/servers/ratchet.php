<?php
// Ratchet's own WAMP v1 server: the same procedure, and relayed topics. Run as `php ratchet.php PORT AUTOLOAD`,
// where AUTOLOAD is the vendor/autoload.php of a directory in which Composer has installed cboden/ratchet.
use Ratchet\ConnectionInterface;
use Ratchet\Http\HttpServer;
use Ratchet\Server\IoServer;
use Ratchet\Wamp\WampServer;
use Ratchet\Wamp\WampServerInterface;
use Ratchet\WebSocket\WsServer;
use React\EventLoop\Loop;
use React\Socket\SocketServer;

require $argv[2];

class Relay implements WampServerInterface
{
    public function onCall(ConnectionInterface $conn, $id, $topic, array $params)
    {
        if ((string) $topic === 'http://example.com/calc#add') {
            $conn->callResult($id, $params[0] + $params[1]);
        } else {
            $conn->callError($id, $topic, 'no such procedure');
        }
    }

    public function onPublish(ConnectionInterface $conn, $topic, $event, array $exclude, array $eligible)
    {
        $topic->broadcast($event, [$conn->WAMP->sessionId], $eligible);
    }

    public function onSubscribe(ConnectionInterface $conn, $topic) {}
    public function onUnSubscribe(ConnectionInterface $conn, $topic) {}
    public function onOpen(ConnectionInterface $conn) {}
    public function onClose(ConnectionInterface $conn) {}

    public function onError(ConnectionInterface $conn, \Exception $e)
    {
        fwrite(STDERR, $e->getMessage() . "\n");
    }
}

$socket = new SocketServer('127.0.0.1:' . $argv[1], ['tcp' => ['backlog' => 4096]]);
new IoServer(new HttpServer(new WsServer(new WampServer(new Relay()))), $socket, Loop::get());
echo "ready\n";
Loop::run();
