// Command oracles says what Go's own libraries make of a text or an object. Tests compare the operator with it.
//
// Its argument names the library. It reads questions from standard input, one a line, in JSON, and answers each with
// a line: `ok` and a value in JSON, or `error` and a message in JSON. It ends at the end of its input.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// An oracle answers a question.
type oracle func(question []byte) (any, error)

var oracles = map[string]oracle{
	"image":    image,
	"argo":     argo,
	"flux":     flux,
	"kstatus":  kstatus,
	"quantity": quantity,
	"duration": duration,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 1 || oracles[arguments[0]] == nil {
		return fmt.Errorf("expected one of argo, flux, image, kstatus, quantity, duration; got %q", arguments)
	}
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		if question := bytes.TrimSpace(line); len(question) > 0 {
			if err := write(out, oracles[arguments[0]], question); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return fmt.Errorf("reading a question: %w", err)
		}
	}
}

func write(out io.Writer, ask oracle, question []byte) error {
	word := "ok"
	value, err := ask(question)
	if err != nil {
		word, value = "error", err.Error()
	}
	answer, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("writing the answer to %s: %w", question, err)
	}
	if _, err := fmt.Fprintf(out, "%s %s\n", word, answer); err != nil {
		return fmt.Errorf("answering %s: %w", question, err)
	}
	return nil
}

// read decodes a question. One that cannot be decoded is a mistake of the asker, not an answer.
func read[T any](question []byte) T {
	var value T
	if err := json.Unmarshal(question, &value); err != nil {
		panic(fmt.Sprintf("a question in the wrong shape: %s: %v", question, err))
	}
	return value
}
