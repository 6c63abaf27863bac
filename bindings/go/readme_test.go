package netserver

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadme follows the README: it makes a module with its first program, and talks to that.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	check(t, err)
	_, rest, _ := strings.Cut(string(text), "```go\n")
	program, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no program")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	service := free.Addr().String()
	free.Close()
	program = strings.Replace(program, "127.0.0.1:5000", service, 1)

	here, err := filepath.Abs(".")
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644))
	run := func(args ...string) {
		t.Helper()
		command := exec.Command("go", args...)
		command.Dir = dir
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, output)
		}
	}
	run("mod", "init", "example")
	run("mod", "edit", "-require", "netserver@v0.0.0", "-replace", "netserver="+here)
	run("build", "-o", "program", ".")

	server := exec.Command(filepath.Join(dir, "program"))
	server.Stderr = os.Stderr
	check(t, server.Start())
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	var conn net.Conn
	await(t, "it listens", func() bool {
		conn, err = net.DialTimeout("tcp", service, time.Second)
		return err == nil
	})
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte("hello\n"))
	check(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	check(t, err)
	equal(t, line, "hello\n")
}
